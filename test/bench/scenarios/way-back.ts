import { hash } from 'node:crypto'
import type { PageIndex } from '../../../src/domain/page.ts'
import { type Case, GBIT, SMALL } from '../case.ts'
import { type CloneMemory, eachPrivatePage } from '../clone-pages.ts'
import { cloneMemory, endVm, moveClone, onConsole, startClone } from '../drover-move.ts'
import { limitOf } from '../limit.ts'
import { makeRow, type Run, target } from '../results.ts'
import type { Pair } from '../setting.ts'
import { Squeeze } from '../squeeze.ts'
import { formatMs } from '../table.ts'
import { dataIsThere, newData } from '../workloads.ts'

const DATA_MIB = 16
const CHANGED_MIB = 4

const names = {
  scenario: 7,
  title: `way back, ${CHANGED_MIB} MiB of ${DATA_MIB} changed`,
  bitsPerSecond: GBIT,
}

/** What a clone's private pages held at one time. */
type Held = ReadonlyMap<PageIndex, string>

export const WAY_BACK: Case = {
  ...names,
  setting: SMALL,
  async run({ pair }, { repeats, say }) {
    const runs: Run[] = []
    for (let repeat = 0; repeat < repeats; repeat++) {
      const run = await thereAndBack(pair)
      runs.push(run)
      say(`${repeat + 1} of ${repeats}: drover ${formatMs(run.drover.totalMs)} for the way back`)
    }
    return makeRow({
      ...names,
      link: { ...pair.link.rate },
      runs,
      targets: ({ drover, limit }) => [
        target('on the wire, of zstd of what changed', drover.wireBytes, '≤', 1.1 * limit!.bytes, 'bytes'),
      ],
    })
  },
}

async function thereAndBack(pair: Pair): Promise<Run> {
  const { source, destination, link } = pair
  const name = await startClone(source, pair.templateId, newData(DATA_MIB))
  await moveClone(pair, { name, from: source, to: destination })
  const arrived = await held(await cloneMemory(destination, name))
  await onConsole(destination, name, (console) => console.run(`workload data ${CHANGED_MIB} 2`))
  const changedBytes = await zstdOfChanged(await cloneMemory(destination, name), arrived)
  const back = await moveClone(pair, { name, from: destination, to: source })
  await onConsole(source, name, dataIsThere)
  await endVm(source, name)
  return { ...back, limit: limitOf(changedBytes, link.rate), stock: null, stockMultifd: null }
}

async function held(clone: CloneMemory): Promise<Held> {
  const contents = new Map<PageIndex, string>()
  await eachPrivatePage(clone, (index, page) => contents.set(index, digest(page)))
  return contents
}

async function zstdOfChanged(clone: CloneMemory, before: Held): Promise<number> {
  const squeeze = new Squeeze()
  await eachPrivatePage(clone, (index, page, templatePage) => {
    const was = before.get(index) ?? digest(templatePage)
    if (digest(page) !== was) squeeze.add(page)
  })
  return squeeze.end()
}

function digest(page: Buffer): string {
  return hash('sha256', page, 'base64')
}
