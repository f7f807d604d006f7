import { linkName } from './case.ts'
import type { BenchResults, MoveResult, Row, Target, Unit } from './results.ts'
import { formatBytes, formatMs, textTable } from './table.ts'

/** Two tables of text: what was measured, and which promises it keeps. */
export function renderRows({
  rows,
  multifdCompression,
}: Pick<BenchResults, 'rows' | 'multifdCompression'>): string {
  const measured = textTable(
    [
      '',
      'link',
      'mover',
      'whole move',
      'blackout',
      'on the wire',
      'memory there',
      'QEMU ÷ it',
      'beyond limit',
    ],
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
  const { drover, stock, stockMultifd, limit, distance } = row
  const line = (mover: string, cells: string[]) => [nameOf(row), linkName(row.link), mover, ...cells]
  const faster = ({ totalMs }: MoveResult) => (stock === null ? '' : times(stock.totalMs / totalMs))
  const all = ({ totalMs, blackoutMs, wireBytes, destinationBytes }: MoveResult) => [
    formatMs(totalMs),
    formatMs(blackoutMs),
    formatBytes(wireBytes),
    formatBytes(destinationBytes),
  ]
  const beyond =
    limit === null || distance === null
      ? ''
      : `${formatMs(distance.ms)}, ${times(drover.wireBytes / limit.bytes)} the bytes`
  return [
    line('drover', [...all(drover), faster(drover), beyond]),
    ...(limit === null
      ? []
      : [line('limit', [formatMs(limit.ms), '', formatBytes(limit.bytes), '', '', ''])]),
    ...(stock === null ? [] : [line('QEMU', [...all(stock), '', ''])]),
    ...(stockMultifd === null
      ? []
      : [line(`QEMU, multifd ${compression}`, [...all(stockMultifd), faster(stockMultifd), ''])]),
  ]
}

function targetLine(row: Row, { what, measured, relation, bound, unit, met }: Target): string[] {
  const cells = [format(measured, unit), relation, format(bound, unit), met ? 'kept' : 'BROKEN']
  return [nameOf(row), linkName(row.link), what, ...cells]
}

export function format(value: number, unit: Unit): string {
  if (unit === 'ms') return formatMs(value)
  if (unit === 'bytes') return formatBytes(Math.round(value))
  return unit === '×' ? times(value) : String(value)
}

function times(value: number): string {
  return `${value.toFixed(value < 10 ? 2 : 0)} ×`
}

function nameOf({ scenario, title }: Row): string {
  return `${scenario} ${title}`
}
