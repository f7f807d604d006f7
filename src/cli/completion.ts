import type { Command } from 'commander'
import { firstSentence } from './help.ts'

export const SHELLS = ['bash', 'zsh', 'fish'] as const
export type Shell = (typeof SHELLS)[number]

/** What may follow a command: its subcommands, its options with the global ones, its argument's choices. */
interface Completions {
  /** Words that lead here, such as `template create`; empty for drover itself. */
  path: string
  words: { word: string; meaning: string }[]
}

/** A completion script, generated from the same tree that parses the command line. */
export function completionScript(program: Command, shell: Shell): string {
  const completions = [...collect(program, '', globalOptions(program))]
  if (shell === 'bash') return bash(completions)
  return shell === 'zsh' ? zsh(completions) : fish(completions)
}

function* collect(command: Command, path: string, global: Completions['words']): Generator<Completions> {
  const options = path === '' ? [] : optionWords(command)
  const choices = command.registeredArguments.flatMap(({ argChoices = [] }) => argChoices)
  yield {
    path,
    words: [
      ...command.commands.map((sub) => ({ word: sub.name(), meaning: plainWords(sub.description()) })),
      ...choices.map((word) => ({ word, meaning: '' })),
      ...options,
      ...global,
    ],
  }
  for (const sub of command.commands) yield* collect(sub, `${path} ${sub.name()}`.trim(), global)
}

function globalOptions(program: Command): Completions['words'] {
  return [...optionWords(program), { word: '--help', meaning: 'show help' }]
}

function optionWords(command: Command): Completions['words'] {
  return command.options.map(({ long, description }) => ({
    word: long!,
    meaning: plainWords(description),
  }))
}

/** As one quoted word of any of the shells, without what they'd take for more. */
function plainWords(text: string): string {
  return firstSentence(text).replaceAll(/['"`\\$[\]():]|\.$/g, '')
}

/** The words before the cursor, without options, name the place in the tree: the longest that is known counts. */
function bash(completions: readonly Completions[]): string {
  const cases = completions.map(
    ({ path, words }) => `    '${path}') words='${words.map(({ word }) => word).join(' ')}' ;;`,
  )
  return `# bash completion of drover
_drover() {
  local current=\${COMP_WORDS[COMP_CWORD]} path='' word words=''
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "$path $word" in
${pathPatterns(completions)}
    esac
  done
  case $path in
${cases.join('\n')}
  esac
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}
complete -o default -F _drover drover`
}

function zsh(completions: readonly Completions[]): string {
  const cases = completions.map(({ path, words: list }) => {
    const entries = list.map(({ word, meaning }) => `'${word}:${meaning}'`).join(' ')
    return `    '${path}') entries=(${entries}) ;;`
  })
  return `#compdef drover
_drover() {
  local path_='' word
  local -a entries
  for word in "\${(@)words[2,CURRENT-1]}"; do
    case "$path_ $word" in
${pathPatterns(completions).replaceAll('path=', 'path_=')}
    esac
  done
  case $path_ in
${cases.join('\n')}
  esac
  _describe drover entries || _files
}
compdef _drover drover`
}

function pathPatterns(completions: readonly Completions[]): string {
  return completions
    .filter(({ path }) => path !== '')
    .map(({ path }) => {
      const words = path.split(' ')
      return `      '${words.slice(0, -1).join(' ')} ${words.at(-1)}') path='${path}' ;;`
    })
    .join('\n')
}

function fish(completions: readonly Completions[]): string {
  const lines = completions.flatMap(({ path, words }) => {
    const seen = path.split(' ').filter((word) => word !== '')
    const children = completions
      .filter((other) => other.path.startsWith(path === '' ? '' : `${path} `) && other.path !== path)
      .map((other) => other.path.split(' ')[seen.length]!)
    const conditions = [
      ...seen.map((word) => `__fish_seen_subcommand_from ${word}`),
      ...(children.length > 0 ? [`not __fish_seen_subcommand_from ${[...new Set(children)].join(' ')}`] : []),
    ]
    const when = conditions.length > 0 ? ` -n '${conditions.join('; and ')}'` : ''
    return words.map(({ word, meaning }) => {
      const what = word.startsWith('--') ? `-l ${word.slice(2)}` : `-f -a ${word}`
      return `complete -c drover${when} ${what}${meaning === '' ? '' : ` -d '${meaning}'`}`
    })
  })
  return `# fish completion of drover\n${[...new Set(lines)].join('\n')}`
}
