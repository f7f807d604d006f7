import { type Case, GBIT, SMALL } from '../case.ts'
import {
  cloneMemory,
  completed,
  detailsOf,
  endVm,
  moveWithDrover,
  onConsole,
  startClone,
} from '../drover-move.ts'
import { guestRamUse, residentBytes } from '../guest-ram.ts'
import { limitOf, type Unavoidable, unavoidable } from '../limit.ts'
import { makeRow, type Run, target } from '../results.ts'
import { type Pair, templateRam } from '../setting.ts'
import { formatMs, median } from '../table.ts'
import { usedRamBytes } from '../template-pages.ts'
import { IDLE } from '../workloads.ts'

const CLONES = 8

interface HerdRun extends Run {
  /** At the destination: private pages of all, and what the page cache has of the template. */
  memoryBytes: number
  privateBytesBefore: number
}

const names = { scenario: 5, title: `${CLONES} idle clones, a herd`, bitsPerSecond: GBIT }

export const HERD: Case = {
  ...names,
  setting: SMALL,
  async run({ pair }, { repeats, say }) {
    const runs: HerdRun[] = []
    for (let repeat = 0; repeat < repeats; repeat++) {
      const run = await moveHerd(pair)
      runs.push(run)
      say(`${repeat + 1} of ${repeats}: drover ${formatMs(run.drover.totalMs)}`)
    }
    const memoryBytes = median(runs.map((run) => run.memoryBytes))
    const privateBytes = median(runs.map((run) => run.privateBytesBefore))
    const templateBytes = await usedRamBytes(templateRam(pair.source, pair.templateId))
    return makeRow({
      ...names,
      link: { ...pair.link.rate },
      runs,
      targets: ({ drover }) => [
        target('all of them', drover.totalMs, '≤', 800, 'ms'),
        target(
          'memory there, of template in use + private',
          memoryBytes,
          '≤',
          templateBytes + 1.05 * privateBytes,
          'bytes',
        ),
      ],
    })
  },
}

async function moveHerd(pair: Pair): Promise<HerdRun> {
  const { source, destination, link } = pair
  const clones: string[] = []
  for (let i = 0; i < CLONES; i++) clones.push(await startClone(source, pair.templateId, IDLE))
  const needs: Unavoidable[] = []
  let privateBytesBefore = 0
  for (const name of clones) {
    const memory = await cloneMemory(source, name)
    needs.push(await unavoidable(memory))
    privateBytesBefore += (await guestRamUse(memory.pid, memory.ramPath)).privateBytes
  }
  const move = await moveWithDrover(pair, { names: clones, from: source, to: destination })
  const reports = move.reports.map(completed)
  let destinationBytes = 0
  for (const name of clones) {
    await onConsole(destination, name, (console) => IDLE.check(console))
    const { pid, ramPath } = await cloneMemory(destination, name)
    destinationBytes += (await guestRamUse(pid, ramPath)).privateBytes
  }
  const templateBytes = await residentBytes(templateRam(destination, pair.templateId))
  for (const name of clones) await endVm(destination, name)
  const bytes = needs.reduce((sum, { changedZstdBytes }) => sum + changedZstdBytes, 0)
  return {
    drover: {
      totalMs: move.wallMs,
      blackoutMs: Math.max(...reports.map(({ durationsMs }) => durationsMs.blackout)),
      wireBytes: move.wireBytes,
      destinationBytes,
    },
    details: reports.map(detailsOf),
    unavoidable: null,
    limit: limitOf(bytes, link.rate),
    stock: null,
    stockMultifd: null,
    memoryBytes: destinationBytes + templateBytes,
    privateBytesBefore,
  }
}
