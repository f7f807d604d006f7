/**
 * The README's table of measurements, made from the JSON of a run. It stands
 * between two marks, the first of which names the file:
 *
 *     <!-- bench: test/bench/results/NAME.json -->
 *     <!-- /bench -->
 */
import { linkName } from './case.ts'
import { format } from './render.ts'
import type { BenchResults, MoveResult, Row } from './results.ts'
import { formatBytes, formatMs, textTable } from './table.ts'

const BLOCK = /<!-- bench: (\S+) -->\n[\s\S]*?<!-- \/bench -->/

/** @returns the file that the README's table is made from; null: it has no table */
export function namedResults(readme: string): string | null {
  return BLOCK.exec(readme)?.[1] ?? null
}

/**
 * The README with the table of a run.
 *
 * @param path - of its file, from the README's directory
 * @throws when the marks are missing
 */
export function withTable(readme: string, path: string, results: BenchResults): string {
  if (!BLOCK.test(readme)) throw new Error('the README has no <!-- bench: FILE --> ... <!-- /bench -->')
  return readme.replace(BLOCK, () => `<!-- bench: ${path} -->\n${renderTable(results)}\n<!-- /bench -->`)
}

export function renderTable({ rows, repeats, machine, drover, date }: BenchResults): string {
  const moves = repeats === 1 ? 'One move' : `Medians of ${repeats} moves`
  const where = `${machine.cores} cores of ${machine.cpu}, Linux ${machine.kernel.split('-')[0]}, QEMU ${machine.qemu} (${machine.accelerator})`
  const table = textTable(
    ['', 'link', 'whole move', 'limit', 'QEMU', 'multifd', 'blackout', 'on the wire', 'limit', 'targets'],
    rows.map(rowCells),
  )
  const indented = table.split('\n').map((line) => `    ${line}`)
  return [
    `${moves} each, ${where}, drover ${drover}, ${date.slice(0, 10)}:`,
    '',
    ...indented,
    ...broken(rows),
  ].join('\n')
}

function rowCells({ scenario, title, link, drover, limit, stock, stockMultifd, targets }: Row): string[] {
  const totalMs = (result: MoveResult | null) => (result === null ? '' : formatMs(result.totalMs))
  return [
    `${scenario} ${title}`,
    linkName(link),
    formatMs(drover.totalMs),
    limit === null ? '' : formatMs(limit.ms),
    totalMs(stock),
    totalMs(stockMultifd),
    formatMs(drover.blackoutMs),
    formatBytes(drover.wireBytes),
    limit === null ? '' : formatBytes(limit.bytes),
    `${targets.filter(({ met }) => met).length} of ${targets.length}`,
  ]
}

/** What is promised and was not kept in this run is said with it. */
function broken(rows: readonly Row[]): string[] {
  const lines = rows.flatMap((row) =>
    row.targets
      .filter(({ met }) => !met)
      .map(({ what, measured, relation, bound, unit }) => {
        const name = `${row.scenario} ${row.title}, ${linkName(row.link)}`
        return `- ${name}: ${what} ${format(measured, unit)}, should be ${relation} ${format(bound, unit)}`
      }),
  )
  return lines.length === 0 ? [] : ['', 'Targets that it misses:', '', ...lines]
}
