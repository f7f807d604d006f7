import type { MigrationReport } from '../../../src/domain/migration.ts'
import { type Case, MBIT, SMALL } from '../case.ts'
import { cloneMemory, detailsOf, endVm, moveWithDrover, onConsole, startClone } from '../drover-move.ts'
import { guestRamUse } from '../guest-ram.ts'
import { makeRow, type Run, target } from '../results.ts'
import type { Pair } from '../setting.ts'
import { formatMs } from '../table.ts'
import { rewriting } from '../workloads.ts'

const SPAN_MIB = 64
const MAX_BLACKOUT_MS = 300

const names = {
  scenario: 8,
  title: `writer faster than the link`,
  bitsPerSecond: 100 * MBIT,
}

interface WriterRun extends Run {
  report: MigrationReport
}

/** The move ends: the guest stood still for no longer than asked for, or stays where it was and the report says why. */
export const FAST_WRITER: Case = {
  ...names,
  setting: SMALL,
  async run({ pair }, { repeats, say }) {
    const runs: WriterRun[] = []
    for (let repeat = 0; repeat < repeats; repeat++) {
      const run = await moveWriter(pair)
      runs.push(run)
      say(`${repeat + 1} of ${repeats}: ${describe(run.report)}`)
    }
    return makeRow({
      ...names,
      link: { ...pair.link.rate },
      runs: runs.map(({ report: _, ...run }) => run),
      targets: () => [
        target(
          `moves that kept to --max-blackout ${MAX_BLACKOUT_MS} or said why not`,
          runs.filter(({ report }) => isGoodEnd(report)).length,
          '≥',
          repeats,
          '',
        ),
      ],
      notes: runs.map(({ report }) => describe(report)),
    })
  },
}

async function moveWriter(pair: Pair): Promise<WriterRun> {
  const { source, destination } = pair
  const workload = rewriting(SPAN_MIB)
  const name = await startClone(source, pair.templateId, workload)
  const request = { names: [name], from: source, to: destination, maxBlackoutMs: MAX_BLACKOUT_MS }
  const move = await moveWithDrover(pair, request)
  const [report] = move.reports as [MigrationReport]
  const owner = report.outcome === 'completed' ? destination : source
  // It runs, and holds what it wrote: a guest that stands still would not answer.
  await onConsole(owner, name, (console) => workload.check(console))
  const { pid, ramPath } = await cloneMemory(owner, name)
  const { privateBytes } = await guestRamUse(pid, ramPath)
  await endVm(owner, name)
  return {
    drover: {
      totalMs: report.durationsMs.total,
      blackoutMs: report.durationsMs.blackout,
      wireBytes: move.wireBytes,
      destinationBytes: report.outcome === 'completed' ? privateBytes : 0,
    },
    details: [detailsOf(report)],
    unavoidable: null,
    limit: null,
    stock: null,
    stockMultifd: null,
    report,
  }
}

function isGoodEnd({ outcome, durationsMs, error }: MigrationReport): boolean {
  if (outcome === 'completed') return durationsMs.blackout <= MAX_BLACKOUT_MS
  return outcome === 'failed' && error !== null && error.code !== '' && error.message !== ''
}

function describe({ outcome, durationsMs, error, vm }: MigrationReport): string {
  const end = `${outcome} after ${formatMs(durationsMs.total)}, blackout ${formatMs(durationsMs.blackout)}`
  return error === null ? end : `${end}: ${error.message.replaceAll(vm, 'the VM')} (${error.code})`
}
