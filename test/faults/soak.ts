/**
 * Random moves of several VMs among three nodes, with random faults at random
 * times, all of them from one seed:
 *
 *     npm run soak -- [--moves N | --minutes N] [--seed S] [--logs DIR]
 *
 * Ends with the first finding's seed and move, if there is one, and goes on in
 * a new lab after it. Needs root: network namespaces and file systems.
 */
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { seededRandom } from '../bench/random.ts'
import { type CaseEnd, runCase } from './fault-case.ts'
import { errorText, FINDING_KINDS, type Finding } from './findings.ts'
import { find, removeGuest, startGuest, type Workload } from './guests.ts'
import { checkLife, checkMemory, checkTemplate } from './invariants.ts'
import { Lab } from './lab.ts'
import { planMove } from './soak-plan.ts'

const NODES = 3
const THOROUGH_EVERY = 20

/** A few of each kind: data that must not change, and writers that go on while they are moved. */
const VMS: Readonly<Record<string, Workload>> = {
  quiet: { dataMib: 8 },
  small: { dataMib: 1 },
  writer: { dataMib: 2, commands: ['workload dirty 1 2'] },
  hot: { dataMib: 2 },
}
const NAMES = Object.keys(VMS)
/** Runs only while it is moved: a guest that never rests takes one of two cores. */
const HOT = 'hot'

const { values } = parseArgs({
  options: {
    moves: { type: 'string' },
    minutes: { type: 'string' },
    seed: { type: 'string', default: '1' },
    logs: { type: 'string' },
  },
})
const maxMoves = values.moves === undefined ? Number.POSITIVE_INFINITY : Number(values.moves)
const maxMs = values.minutes === undefined ? Number.POSITIVE_INFINITY : Number(values.minutes) * 60_000
if (maxMoves === Number.POSITIVE_INFINITY && maxMs === Number.POSITIVE_INFINITY) {
  console.error('usage: npm run soak -- --moves N | --minutes N [--seed S] [--logs DIR]')
  process.exitCode = 2
} else process.exitCode = await soak()

async function soak(): Promise<number> {
  const random = seededRandom(Number(values.seed))
  const startedMs = performance.now()
  const findings: Finding[] = []
  let [moves, interrupted] = [0, false]
  const interrupt = () => {
    interrupted = true
  }
  process.once('SIGINT', interrupt).once('SIGTERM', interrupt)
  const outcomes = new Map<string, number>()
  while (moves < maxMoves && performance.now() - startedMs < maxMs && !interrupted) {
    const opened = await Lab.start({ nodes: NODES, memoryLimitBytes: null })
    if (typeof opened === 'string') {
      console.log(`not run: ${opened}`)
      return 2
    }
    await using lab = opened
    let found: Finding[] = []
    while (found.length === 0 && moves < maxMoves && performance.now() - startedMs < maxMs && !interrupted) {
      const end = await step(lab, random).catch(unplayed)
      moves++
      const thorough = moves % THOROUGH_EVERY === 0 || moves === maxMoves ? await lookThoroughly(lab) : []
      found = [...end.findings, ...thorough]
      findings.push(...found)
      outcomes.set(end.outcome, (outcomes.get(end.outcome) ?? 0) + 1)
      tell(moves, end, found)
    }
    if (found.length > 0) await keepLogs(lab, moves)
    else findings.push(...(await lookThoroughly(lab)))
  }
  console.log(
    `outcomes: ${[...outcomes].map(([outcome, count]) => `${count} ${outcome}`).join(', ')}\n` +
      `${moves} moves with seed ${values.seed} in ${((performance.now() - startedMs) / 60_000).toFixed(1)} min: ` +
      FINDING_KINDS.map((kind) => `${findings.filter((one) => one.kind === kind).length} ${kind}`).join(', '),
  )
  return findings.length === 0 ? 0 : 1
}

async function step(lab: Lab, random: () => number): Promise<CaseEnd> {
  const { vm: index, step, faultCase } = planMove(random, { vms: NAMES.length, nodes: NODES })
  const vm = NAMES[index]!
  await lab.meet()
  await reviveGuests(lab)
  const [{ agent: source }] = (await find(lab, vm)) as [Awaited<ReturnType<typeof find>>[number]]
  const destination = lab.agents[(lab.agents.indexOf(source) + step) % NODES]!
  const others = NAMES.filter((name) => name !== vm)
  if (vm === HOT) await lab.watch.lineOf(HOT)?.run('workload hot start')
  const end = await runCase({ lab, vm, others, source, destination, random }, faultCase, { thorough: false })
  if (vm === HOT && end.findings.length === 0) await rest(lab)
  return { ...end, name: `${vm} from ${source.name} to ${destination.name}, ${end.name}` }
}

function unplayed(error: unknown): CaseEnd {
  const findings: Finding[] = [{ kind: 'unexpected', text: errorText(error) }]
  return { name: 'a move', outcome: 'not played to its end', owner: 'nobody', ms: 0, findings }
}

async function rest(lab: Lab): Promise<void> {
  const [hot] = await find(lab, HOT)
  if (hot?.vm.state === 'running') await lab.watch.lineOf(HOT)?.run('workload hot stop')
}

/** Those that were killed with their QEMU, and at first all. */
async function reviveGuests(lab: Lab): Promise<void> {
  for (const [i, name] of NAMES.entries()) {
    const [known] = await find(lab, name)
    if (known?.vm.state === 'running') continue
    if (known !== undefined) await removeGuest(known.agent, name)
    await startGuest(lab, known?.agent ?? lab.agents[i % NODES]!, name, VMS[name]!)
  }
}

async function lookThoroughly(lab: Lab): Promise<Finding[]> {
  const findings: Finding[] = []
  for (const name of NAMES) {
    for (const record of await find(lab, name)) {
      findings.push(...(await checkLife(lab, record)), ...(await checkMemory(lab, record)))
    }
  }
  for (const agent of lab.agents) findings.push(...(await checkTemplate(lab, agent)))
  return findings
}

function tell(moves: number, { name, outcome, owner, ms }: CaseEnd, found: readonly Finding[]): void {
  const mark = found.length === 0 ? 'ok  ' : 'FAIL'
  console.log(
    `${mark} ${String(moves).padStart(4)} ${(ms / 1000).toFixed(1).padStart(5)} s  ${name}: ${outcome}, at the ${owner}`,
  )
  for (const { kind, text } of found) console.log(`       ${kind}: ${text}`)
}

async function keepLogs(lab: Lab, moves: number): Promise<void> {
  if (values.logs === undefined) return
  await mkdir(values.logs, { recursive: true })
  const text = lab.agents.map(({ name, log }) => `--- ${name}\n${log}`).join('\n')
  await writeFile(join(values.logs, `seed-${values.seed}-move-${moves}.log`), text)
}
