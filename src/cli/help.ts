/** The head of a command's help: what people copy. */
export function examples(...lines: readonly (readonly [command: string, meaning: string])[]): string {
  const width = Math.max(...lines.map(([command]) => command.length))
  const shown = lines.map(([command, meaning]) => `  $ ${command.padEnd(width)}  ${meaning}`.trimEnd())
  return `Examples:\n${shown.join('\n')}\n`
}

/** What a list of commands has room for; the rest stands in the command's own help. */
export function firstSentence(description: string): string {
  return description.split(/(?<=\.) /)[0]!
}
