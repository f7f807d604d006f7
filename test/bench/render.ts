import { linkName } from './case.ts'
import type { BenchResults, MoveResult, Row, Target } from './results.ts'
import { formatBytes, formatMs, textTable } from './table.ts'

/** Two tables of text: what was measured, and which promises it keeps. */
export function renderRows({
  rows,
  multifdCompression,
}: Pick<BenchResults, 'rows' | 'multifdCompression'>): string {
  const measured = textTable(
    ['', 'link', 'mover', 'whole move', 'blackout', 'on the wire', 'memory there', 'stock ÷ it'],
    rows.flatMap((row) => measuredLines(row, multifdCompression)),
  )
  const promised = textTable(
    ['', 'link', 'promise', 'measured', '', 'bound', ''],
    rows.flatMap((row) => row.targets.map((one) => targetLine(row, one))),
  )
  const notes = rows.flatMap(({ scenario, notes }) => notes.map((note) => `${scenario}: ${note}`))
  return [measured, promised, ...(notes.length === 0 ? [] : [notes.join('\n')])].join('\n\n')
}

function measuredLines(row: Row, compression: string): string[][] {
  const { drover, stock, stockMultifd, limit } = row
  const line = (mover: string, result: MoveResult | null, cells: string[]) => {
    if (result === null) return []
    const times = stock === null ? '' : `${(stock.totalMs / result.totalMs).toFixed(1)} ×`
    return [[nameOf(row), linkName(row.link), mover, ...cells, mover.startsWith('QEMU') ? '' : times]]
  }
  const all = (result: MoveResult | null) =>
    result === null
      ? []
      : [
          formatMs(result.totalMs),
          formatMs(result.blackoutMs),
          formatBytes(result.wireBytes),
          formatBytes(result.destinationBytes),
        ]
  const limits = limit === null ? [] : [formatMs(limit.ms), '', formatBytes(limit.bytes), '']
  return [
    ...line('drover', drover, all(drover)),
    ...(limit === null ? [] : [[nameOf(row), linkName(row.link), 'limit', ...limits, '']]),
    ...line('QEMU', stock, all(stock)),
    ...line(`QEMU, multifd ${compression}`, stockMultifd, all(stockMultifd)),
  ]
}

function targetLine(row: Row, { what, measured, relation, bound, unit, met }: Target): string[] {
  const cells = [format(measured, unit), relation, format(bound, unit), met ? 'kept' : 'BROKEN']
  return [nameOf(row), linkName(row.link), what, ...cells]
}

export function format(value: number, unit: Target['unit']): string {
  if (unit === 'ms') return formatMs(value)
  if (unit === 'bytes') return formatBytes(Math.round(value))
  return unit === '×' ? `${value.toFixed(value < 10 ? 2 : 0)} ×` : String(value)
}

function nameOf({ scenario, title }: Row): string {
  return `${scenario} ${title}`
}
