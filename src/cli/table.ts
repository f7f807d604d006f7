/** Columns wide enough for their longest cell, two spaces apart; no borders, so that awk likes it too. */
export function renderTable(headers: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = headers.map((header, column) =>
    Math.max(header.length, ...rows.map((row) => row[column]!.length)),
  )
  return [headers, ...rows]
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column]!))
        .join('  ')
        .trimEnd(),
    )
    .join('\n')
}

/** `label  value` lines, values under each other; entries with null are left out. */
export function renderFacts(facts: readonly (readonly [string, string | null])[]): string {
  const shown = facts.filter(([, value]) => value !== null)
  const width = Math.max(...shown.map(([label]) => label.length))
  return shown.map(([label, value]) => `${label.padEnd(width)}  ${value}`).join('\n')
}
