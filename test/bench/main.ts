/**
 * `npm run bench`: drover beside stock QEMU, the same clones of the same
 * template with the same workloads, over one link in one run.
 *
 *     npm run bench -- [--rates 100,1000,none] [--repeats 3] [--json FILE]
 *
 * Rates are Mbit/s. Needs root, for network namespaces.
 */
import { mkdir, writeFile } from 'node:fs/promises'
import { cpus, totalmem } from 'node:os'
import { dirname, join } from 'node:path'
import { parseArgs } from 'node:util'
import { droverMove } from './drover-move.ts'
import { makeLink } from './network.ts'
import { makeSetting } from './setting.ts'
import { type MoveResult, stockMove } from './stock.ts'
import { formatBytes, formatMs, median, textTable } from './table.ts'
import { WORKLOADS } from './workloads.ts'

const { values } = parseArgs({
  options: {
    rates: { type: 'string', default: '100,1000,none' },
    repeats: { type: 'string', default: '3' },
    json: { type: 'string' },
  },
})
const rates = values.rates.split(',').map((rate) => (rate === 'none' ? null : Number(rate) * 1e6))
const repeats = Number(values.repeats)
if (rates.some((rate) => rate !== null && !(rate > 0)) || !(Number.isInteger(repeats) && repeats > 0)) {
  console.error('usage: npm run bench -- [--rates 100,1000,none] [--repeats 3] [--json FILE]')
  process.exit(2)
}
if (process.getuid?.() !== 0) {
  console.error('npm run bench makes network namespaces: run it as root')
  process.exit(1)
}

interface Row {
  workload: string
  bitsPerSecond: number | null
  /** Medians of the repeats. */
  drover: MoveResult
  stock: MoveResult
  runs: { drover: MoveResult; stock: MoveResult }[]
}

function medians(results: readonly MoveResult[]): MoveResult {
  const of = (key: keyof MoveResult) => median(results.map((result) => result[key]))
  return {
    totalMs: of('totalMs'),
    blackoutMs: of('blackoutMs'),
    wireBytes: of('wireBytes'),
    destinationBytes: of('destinationBytes'),
  }
}

await using setting = await makeSetting(makeLink)
const { pair, template, dir } = setting
const { qemu, version } = await pair.source.json<{ qemu: { version: string }; version: string }>('status')

const rows: Row[] = []
for (const bitsPerSecond of rates) {
  await pair.link.limit(bitsPerSecond)
  for (const workload of WORKLOADS) {
    const runs: Row['runs'] = []
    for (let repeat = 0; repeat < repeats; repeat++) {
      const { report: _, ...drover } = await droverMove(pair, workload)
      const stock = await stockMove(template, {
        dir: join(dir, 'stock'),
        link: pair.link,
        workload: workload.start,
        check: workload.check,
      })
      runs.push({ drover, stock })
      console.error(
        `${workload.name}, ${rateName(bitsPerSecond)}, ${repeat + 1} of ${repeats}: ` +
          `drover ${formatMs(drover.totalMs)}, stock ${formatMs(stock.totalMs)}`,
      )
    }
    const drover = medians(runs.map((run) => run.drover))
    rows.push({
      workload: workload.name,
      bitsPerSecond,
      drover,
      stock: medians(runs.map((run) => run.stock)),
      runs,
    })
  }
}

console.log(
  textTable(
    ['workload', 'link', 'mover', 'whole move', 'blackout', 'on the wire', 'memory there', 'faster'],
    rows.flatMap((row) => [cells(row, 'drover'), cells(row, 'stock')]),
  ),
)
if (values.json !== undefined) {
  const machine = {
    cpu: cpus()[0]!.model,
    cores: cpus().length,
    memoryBytes: totalmem(),
    qemuVersion: qemu.version,
  }
  await mkdir(dirname(values.json), { recursive: true })
  await writeFile(
    values.json,
    `${JSON.stringify({ droverVersion: version, machine, repeats, rows }, null, 2)}\n`,
  )
}

function rateName(bitsPerSecond: number | null): string {
  return bitsPerSecond === null ? 'no limit' : `${bitsPerSecond / 1e6} Mbit/s`
}

function cells(row: Row, mover: 'drover' | 'stock'): string[] {
  const result = row[mover]
  const faster = row.stock.totalMs / row.drover.totalMs
  return [
    row.workload,
    rateName(row.bitsPerSecond),
    mover === 'drover' ? 'drover' : 'stock QEMU',
    formatMs(result.totalMs),
    formatMs(result.blackoutMs),
    formatBytes(result.wireBytes),
    formatBytes(result.destinationBytes),
    mover === 'drover' ? `${faster.toFixed(1)} ×` : '',
  ]
}
