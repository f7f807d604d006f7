import { join } from 'node:path'
import { type Bench, type Case, FAR, GBIT, MBIT, SMALL } from '../case.ts'
import { droverMove } from '../drover-move.ts'
import { makeRow, type Row, type Run, type Target, target } from '../results.ts'
import type { Setting } from '../setting.ts'
import { type StockMode, stockMove } from '../stock.ts'
import { formatMs, median } from '../table.ts'
import { busy, IDLE, newWords, type Workload } from '../workloads.ts'

/** Beyond what the link itself takes: starting QEMU, negotiating, handing over. */
const OVERHEAD_MS = 150
const NEW_DATA_MIB = 48
const NEW_WORDS_MIB = 64
const ROUND_TRIPS = 5

interface OneCloneInit extends Pick<Case, 'scenario' | 'title' | 'bitsPerSecond'> {
  workload: Workload
  targets: (row: Omit<Row, 'targets'>) => Target[]
  setting?: Case['setting']
}

/** A clone moved by drover, by QEMU, and by QEMU with multifd, in turn. */
export function oneClone({ workload, targets, setting = SMALL, ...names }: OneCloneInit): Case {
  return {
    ...names,
    setting,
    async run(stage, bench) {
      const runs: Run[] = []
      for (let repeat = 0; repeat < bench.repeats; repeat++) {
        const moved = await droverMove(stage.pair, workload)
        const stock = await moveByStock(stage, workload, { kind: 'default' })
        const stockMultifd = await moveByStock(stage, workload, multifd(bench))
        runs.push({ ...moved, stock, stockMultifd })
        const times = [moved.drover, stock, stockMultifd].map(({ totalMs }) => formatMs(totalMs))
        bench.say(
          `${repeat + 1} of ${bench.repeats}: drover ${times[0]}, stock ${times[1]}, multifd ${times[2]}`,
        )
      }
      return makeRow({ ...names, link: { ...stage.pair.link.rate }, runs, targets })
    },
  }
}

function multifd({ multifdCompression }: Bench): StockMode {
  return { kind: 'multifd', compression: multifdCompression }
}

function moveByStock({ template, pair, dir }: Setting, workload: Workload, mode: StockMode) {
  return stockMove(template, { dir: join(dir, 'stock'), link: pair.link, workload, mode })
}

/** 64 MiB of words, which drover may compress as well as zstd level 1 does all that the clone has of its own. */
function words(bitsPerSecond: number): Case {
  return oneClone({
    scenario: 4,
    title: `${NEW_WORDS_MIB} MiB text-like`,
    bitsPerSecond,
    workload: newWords(NEW_WORDS_MIB),
    targets: ({ drover, runs }) => {
      const zstdBytes = median(runs.map(({ unavoidable }) => unavoidable!.privateZstdBytes))
      return [
        target('on the wire, of zstd of private pages', drover.wireBytes, '≤', 1.05 * zstdBytes, 'bytes'),
      ]
    },
  })
}

function timesFaster({ drover, stock }: Omit<Row, 'targets'>, bound: number): Target {
  return target('times faster than stock QEMU', stock!.totalMs / drover.totalMs, '≥', bound, '×')
}

export const ONE_CLONE: readonly Case[] = [
  oneClone({
    scenario: 1,
    title: 'idle clone',
    bitsPerSecond: GBIT,
    workload: IDLE,
    targets: (row) => [
      target('whole move', row.drover.totalMs, '≤', 150, 'ms'),
      target('blackout', row.drover.blackoutMs, '≤', 15, 'ms'),
      target('on the wire', row.drover.wireBytes, '≤', 16 * 1024, 'bytes'),
      timesFaster(row, 12),
    ],
  }),
  oneClone({
    scenario: 2,
    title: 'idle clone',
    bitsPerSecond: 100 * MBIT,
    workload: IDLE,
    targets: (row) => [timesFaster(row, 100)],
  }),
  oneClone({
    scenario: 3,
    title: `${NEW_DATA_MIB} MiB random, hot loop`,
    bitsPerSecond: GBIT,
    workload: busy(NEW_DATA_MIB),
    targets: (row) => [
      target('whole move', row.drover.totalMs, '≤', 1.15 * row.limit!.ms + OVERHEAD_MS, 'ms'),
      target('blackout', row.drover.blackoutMs, '≤', 40, 'ms'),
    ],
  }),
  words(GBIT),
  words(100 * MBIT),
  oneClone({
    scenario: 9,
    title: 'idle clone',
    bitsPerSecond: null,
    workload: IDLE,
    targets: (row) => [timesFaster(row, 4)],
  }),
  oneClone({
    scenario: 9,
    title: `${NEW_DATA_MIB} MiB random, hot loop`,
    bitsPerSecond: null,
    workload: busy(NEW_DATA_MIB),
    targets: (row) => [timesFaster(row, 1)],
  }),
]

/** The hand-over over a long way. */
export const FAR_CLONE: readonly Case[] = [
  oneClone({
    scenario: 2,
    title: 'idle clone',
    setting: FAR,
    bitsPerSecond: 100 * MBIT,
    workload: IDLE,
    targets: (row) => [
      timesFaster(row, 100),
      target(
        `whole move, of ${ROUND_TRIPS} round trips + ${OVERHEAD_MS} ms`,
        row.drover.totalMs,
        '≤',
        ROUND_TRIPS * row.link.roundTripMs + OVERHEAD_MS,
        'ms',
      ),
    ],
  }),
]
