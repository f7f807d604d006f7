import { type Bench, type Case, GBIT, SMALL } from '../case.ts'
import { endVm, moveClone, onConsole, startClone } from '../drover-move.ts'
import { limitOf } from '../limit.ts'
import { makeRow, type Row, type Run, target } from '../results.ts'
import { type Pair, type Setting, templateRam } from '../setting.ts'
import { formatMs } from '../table.ts'
import { missingPages } from '../template-pages.ts'
import { IDLE, newWords } from '../workloads.ts'

/** What the derived template has that its parent lacks. */
const DERIVED_MIB = 16

/** A template to move a clone of, and what the destination has instead. */
interface Missing {
  wanted: string
  there: string[]
}

/** The destination has no template at all. */
const NONE: Case = templateMissing('idle, no template there', async ({ templateId }) => ({
  wanted: templateId,
  there: [],
}))

/** The destination has one that was derived from the one that it lacks. */
const CHILD: Case = templateMissing('idle, derived template there', async (pair) => ({
  wanted: pair.templateId,
  there: [await derivedTemplate(pair)],
}))

/** The destination has the parent of the one that it lacks. */
const PARENT: Case = templateMissing('idle, parent template there', async (pair) => ({
  wanted: await derivedTemplate(pair),
  there: [pair.templateId],
}))

export const TEMPLATE_MISSING: readonly Case[] = [NONE, CHILD, PARENT]

function templateMissing(title: string, prepare: (pair: Pair) => Promise<Missing>): Case {
  const names = { scenario: 6, title, bitsPerSecond: GBIT }
  return {
    ...names,
    setting: SMALL,
    async run({ pair }: Setting, { repeats, say }: Bench): Promise<Row> {
      const runs: Run[] = []
      for (let repeat = 0; repeat < repeats; repeat++) {
        const missing = await prepare(pair)
        await keepOnly(pair, missing.there)
        const run = await moveWithTemplate(pair, missing)
        runs.push(run)
        say(`${repeat + 1} of ${repeats}: drover ${formatMs(run.drover.totalMs)}`)
        await restore(pair)
      }
      return makeRow({
        ...names,
        link: { ...pair.link.rate },
        runs,
        targets: ({ drover, limit }) => [
          target(
            'on the wire, of zstd of what is missing',
            drover.wireBytes,
            '≤',
            1.05 * limit!.bytes,
            'bytes',
          ),
        ],
      })
    },
  }
}

async function moveWithTemplate(pair: Pair, { wanted, there }: Missing): Promise<Run> {
  const { source, destination, link } = pair
  const ram = (id: string) => templateRam(source, id)
  const missing = await missingPages(ram(wanted), there.map(ram))
  const name = await startClone(source, wanted, IDLE)
  const run = await moveClone(pair, { name, from: source, to: destination })
  await onConsole(destination, name, (console) => IDLE.check(console))
  await endVm(destination, name)
  const bytes = missing.zstdBytes + run.unavoidable!.changedZstdBytes
  return { ...run, limit: limitOf(bytes, link.rate), stock: null, stockMultifd: null }
}

/** Sealed at the source of a clone that has written something; the clone is ended. */
async function derivedTemplate({ source, templateId }: Pair): Promise<string> {
  const name = await startClone(source, templateId, newWords(DERIVED_MIB))
  const { id } = await source.json<{ id: string }>('template', 'create', 'derived', '--from-vm', name)
  await endVm(source, name)
  return id
}

/** Of the setting's templates and those derived from it, the destination has these and no other. */
async function keepOnly({ source, destination, templateId }: Pair, there: readonly string[]): Promise<void> {
  for (const id of there) {
    if (id !== templateId) await destination.json('template', 'pull', id, '--from', source.name)
  }
  for (const id of await templatesOf(destination)) {
    if (!there.includes(id)) await destination.json('template', 'rm', id)
  }
}

/** As the setting was: both have its template, and no other. */
async function restore({ source, destination, templateId }: Pair): Promise<void> {
  await destination.json('template', 'pull', templateId, '--from', source.name)
  for (const agent of [source, destination]) {
    for (const id of await templatesOf(agent)) if (id !== templateId) await agent.json('template', 'rm', id)
  }
}

async function templatesOf(agent: Pair['source']): Promise<string[]> {
  const { templates } = await agent.json<{ templates: { id: string }[] }>('template', 'ls')
  return templates.map(({ id }) => id)
}
