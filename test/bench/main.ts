/**
 * `npm run bench`: drover beside stock QEMU and beside what can't be avoided.
 *
 *     npm run bench -- [--scenario 1,3] [--repeats 3] [--json FILE]
 *
 * Scenarios and their targets: scenarios/. Needs root, for network namespaces.
 */
import { mkdir, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { parseArgs } from 'node:util'
import type { StatusReply } from '../../src/agent/api-schema.ts'
import { type Case, linkName } from './case.ts'
import { RUN_DIRECTORY, removeLeftovers, removeOwn } from './namespaces.ts'
import { renderRows } from './render.ts'
import { type BenchResults, describeMachine, type Row } from './results.ts'
import { CASES } from './scenarios/index.ts'
import { makeSetting, type Setting } from './setting.ts'
import { multifdCompression } from './stock.ts'

const USAGE = 'usage: npm run bench -- [--scenario 1,3] [--repeats N] [--json FILE]'

const { values } = parseArgs({
  options: {
    scenario: { type: 'string' },
    repeats: { type: 'string', default: '3' },
    json: { type: 'string' },
  },
})
const wanted = values.scenario?.split(',').map(Number)
const repeats = Number(values.repeats)
const known = new Set(CASES.map(({ scenario }) => scenario))
if (wanted?.some((scenario) => !known.has(scenario)) || !(Number.isInteger(repeats) && repeats > 0)) {
  console.error(`${USAGE}\nscenarios: ${[...known].join(', ')}`)
  process.exit(2)
}
if (process.getuid?.() !== 0) {
  console.error('npm run bench makes network namespaces: run it as root')
  process.exit(1)
}

for (const [signal, number] of [
  ['SIGINT', 2],
  ['SIGTERM', 15],
  ['SIGHUP', 1],
] as const) {
  process.once(signal, () => void removeOwn().finally(() => process.exit(128 + number)))
}
await removeLeftovers()
await mkdir(RUN_DIRECTORY, { recursive: true })
// Agents, and what they start, keep their temporary files there too: one directory is all there is to remove.
process.env.TMPDIR = RUN_DIRECTORY

const rows: Row[] = []
const failures: string[] = []
const found: { facts: Facts | null } = { facts: null }
try {
  for (const group of bySetting(CASES.filter(({ scenario }) => wanted?.includes(scenario) ?? true))) {
    // What one case throws is told in runCase; here a setting could not be made, or not taken down.
    await runGroup(group).catch((error: Error) =>
      failures.push(`setting of ${group[0]!.scenario}: ${error.stack}`),
    )
  }
} finally {
  await removeOwn()
}
if (found.facts !== null && rows.length > 0) {
  // In the order of their numbers, which is not always that in which settings were made.
  await report({ ...found.facts, repeats, rows: rows.toSorted((a, b) => a.scenario - b.scenario) })
}
for (const failure of failures) console.error(`\nFAILED: ${failure}`)
process.exit(failures.length === 0 ? 0 : 1)

type Facts = Pick<BenchResults, 'drover' | 'date' | 'machine' | 'multifdCompression'>

/** Cases that follow each other on one setting. */
function bySetting(cases: readonly Case[]): Case[][] {
  const groups: Case[][] = []
  for (const one of cases) {
    const last = groups.at(-1)
    if (last?.[0]?.setting === one.setting) last.push(one)
    else groups.push([one])
  }
  return groups
}

/** A case that fails may have left anything behind: the ones after it get a new setting. */
async function runGroup(group: readonly Case[]): Promise<void> {
  for (let next = 0; next < group.length; ) {
    await using setting = await makeSetting(group[next]!.setting)
    found.facts ??= await findFacts(setting)
    for (let isSound = true; isSound && next < group.length; next++)
      isSound = await runCase(group[next]!, setting, found.facts)
  }
}

async function runCase(one: Case, setting: Setting, facts: Facts): Promise<boolean> {
  const { link } = setting.pair
  await link.limit(one.bitsPerSecond)
  const name = `${one.scenario}. ${one.title}, ${linkName(link.rate)}`
  console.error(name)
  try {
    rows.push(await one.run(setting, { repeats, multifdCompression: facts.multifdCompression, say }))
    return true
  } catch (error) {
    failures.push(`${name}: ${(error as Error).stack}`)
    return false
  }
}

function say(text: string): void {
  console.error(`   ${text}`)
}

async function findFacts({ pair, template, dir }: Setting): Promise<Facts> {
  const { qemu, version } = await pair.source.json<StatusReply>('status')
  const compression = await multifdCompression(template, {
    dir: join(dir, 'probe'),
    qemu: pair.link.source.qemu,
  })
  if (compression !== 'zstd') say('this QEMU has no zstd for multifd: its second column is with zlib')
  return {
    drover: version,
    date: new Date().toISOString(),
    machine: describeMachine({ version: qemu.version!, accelerator: qemu.accelerator! }),
    multifdCompression: compression,
  }
}

async function report(results: BenchResults): Promise<void> {
  console.log(renderRows(results))
  if (values.json === undefined) return
  await mkdir(dirname(values.json), { recursive: true })
  await writeFile(values.json, `${JSON.stringify(results, null, 2)}\n`)
}
