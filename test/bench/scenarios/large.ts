import { probeSoftDirty } from '../../../src/memory/index.ts'
import { forgetPeak, peakBytes } from '../agent-memory.ts'
import { type Case, GBIT } from '../case.ts'
import { endVm, moveClone, onConsole, startClone } from '../drover-move.ts'
import { makeLink } from '../network.ts'
import { makeRow, type Run, target } from '../results.ts'
import type { Pair } from '../setting.ts'
import { formatBytes, formatMs, median } from '../table.ts'
import { busy } from '../workloads.ts'

const NEW_DATA_MIB = 1024
const MAX_AGENT_BYTES = 300 * 1024 ** 2

const names = { scenario: 10, title: '4 GiB, 1 GiB random, hot loop', bitsPerSecond: GBIT }

interface LargeRun extends Run {
  peakBytes: { source: number; destination: number }
}

export const LARGE: Case = {
  ...names,
  setting: { makeLink, memory: '4G', fillMib: 2048 },
  async run({ pair }, { repeats, say }) {
    const runs: LargeRun[] = []
    for (let repeat = 0; repeat < repeats; repeat++) {
      const run = await moveLarge(pair)
      runs.push(run)
      say(`${repeat + 1} of ${repeats}: drover ${formatMs(run.drover.totalMs)}`)
    }
    const tracked = (await probeSoftDirty()) ? 'with soft-dirty' : 'without soft-dirty'
    return makeRow({
      ...names,
      link: { ...pair.link.rate },
      runs,
      targets: ({ drover }) => [
        target(
          'agent, most memory',
          median(runs.map(({ peakBytes: { source, destination } }) => Math.max(source, destination))),
          '≤',
          MAX_AGENT_BYTES,
          'bytes',
        ),
        target(`blackout, ${tracked}`, drover.blackoutMs, '≤', 1000, 'ms'),
      ],
      notes: runs.map(
        ({ peakBytes: { source, destination } }) =>
          `most memory of the agents: source ${formatBytes(source)}, destination ${formatBytes(destination)}`,
      ),
    })
  },
}

async function moveLarge(pair: Pair): Promise<LargeRun> {
  const { source, destination } = pair
  const workload = busy(NEW_DATA_MIB)
  const name = await startClone(source, pair.templateId, workload)
  for (const { pid } of [source, destination]) await forgetPeak(pid)
  const run = await moveClone(pair, { name, from: source, to: destination })
  const peaks = { source: await peakBytes(source.pid), destination: await peakBytes(destination.pid) }
  await onConsole(destination, name, (console) => workload.check(console))
  await endVm(destination, name)
  return { ...run, stock: null, stockMultifd: null, peakBytes: peaks }
}
