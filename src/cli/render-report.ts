import type { MigrationReport } from '../domain/migration.ts'
import { renderFacts } from './table.ts'
import { formatBytes, formatCount, formatMs } from './units.ts'

const ENCODINGS = ['zero', 'xor', 'zstd', 'raw', 'reference', 'template'] as const

/** What a person wants to know of a move: did it work, how long did the guest stand still, what did it cost. */
export function renderReport(report: MigrationReport): string {
  const { durationsMs: took, bytes, pages, rounds, destination } = report
  const encodings = ENCODINGS.filter((name) => pages[name] > 0).map(
    (name) => `${formatCount(pages[name])} ${name}`,
  )
  const saved = bytes.stockEquivalent > 0 ? `; plain QEMU: ${formatBytes(bytes.stockEquivalent)}` : ''
  return renderFacts([
    ['vm', `${report.vm}: ${report.outcome}`],
    ['error', report.error === null ? null : `${report.error.message} (${report.error.code})`],
    ['migration', report.migrationId],
    ['to', report.to],
    ['blackout', took.blackout > 0 ? formatMs(took.blackout) : null],
    [
      'total',
      `${formatMs(took.total)} (negotiate ${formatMs(took.negotiate)}, template ${formatMs(took.template)}, rounds ${formatMs(took.rounds)})`,
    ],
    ['on the wire', `${formatBytes(bytes.wire)}${saved}`],
    [
      'pages',
      `${formatCount(pages.sent)} sent of ${formatCount(pages.private)} private${encodings.length > 0 ? ` (${encodings.join(', ')})` : ''}`,
    ],
    ['rounds', rounds.length === 0 ? null : rounds.map((round) => formatCount(round.pages)).join(', ')],
    [
      'there',
      destination === null
        ? null
        : `${formatCount(destination.private)} private, ${formatCount(destination.shared)} shared`,
    ],
    ['digest', report.digest],
  ])
}
