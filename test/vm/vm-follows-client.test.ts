/**
 * The rebalancer for real: four agents and clients on hosts that are as far
 * from each other as the test wants. One client walks from one node to another,
 * polls its VM meanwhile, and the VM follows. Others stay where they are, and
 * count for more or less. Both take minutes, so they go on side by side.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, test, vi } from 'vitest'
import type {
  MeshVmsReply,
  MigrationReply,
  RebalancePlanReply,
  RebalanceReply,
  VmReply,
} from '../../src/agent/api-schema.ts'
import { BASE_COOL_DOWN_MS } from '../../src/placement/cool-down.ts'
import { DEFAULT_CALM } from '../../src/placement/index.ts'
import { DelayedNetwork } from '../support/delayed-network/index.ts'
import { AgentUnderTest } from '../support/drover.ts'
import { testGuest } from '../support/guest.ts'
import { PollingClient } from '../support/polling-client/index.ts'
import { answersOfThePast, longestGapMs, nodesInTurn } from '../support/polling-client/judge.ts'
import { inGuest, met } from '../support/two-nodes.ts'

const NODES = ['edge-1', 'edge-2', 'edge-3', 'edge-4'] as const
type Node = (typeof NODES)[number]
const CLIENT = 'client'
const AGENT_PORT = 4710
const GUEST_PORT = 8080
const CLIENT_PORT = 9000

/** Round trips between two nodes, in ms: each pair has one of its own. */
const MIN_BETWEEN_NODES_MS = 20
const BETWEEN_NODES_STEP_MS = 4
/** Round trips of the client, in ms: to the node that it is at, and to the others. */
const NEAR_MS = 5
const FAR_MS: Record<Node, number> = { 'edge-1': 80, 'edge-2': 60, 'edge-3': 100, 'edge-4': 120 }

/** Hosts that refuse connections, which says as well how far they are. */
const FIXED_CLIENTS = ['west', 'east'] as const
/** Round trips to them: `west` is near edge-1, `east` near edge-4; for both together edge-1 is best. */
const FIXED_MS: Record<(typeof FIXED_CLIENTS)[number], Record<Node, number>> = {
  west: { 'edge-1': 5, 'edge-2': 175, 'edge-3': 160, 'edge-4': 140 },
  east: { 'edge-1': 100, 'edge-2': 175, 'edge-3': 160, 'edge-4': 10 },
}

/** What the rebalancer promises: the VM is at its client so soon after a change. */
const FOLLOW_TIMEOUT_MS = 30_000
/** What a client may miss besides the blackout: its connection is a new one, on another way. */
const GAP_BESIDE_BLACKOUT_MS = 1_000
/** Enough for a move that was begun at once to show. */
const STAY_MS = 5_000
/** Looks in which a paused node would move a VM, and doesn't. */
const PAUSED_LOOKS = 3
const POLL_MS = 100
/** Each command is a process: more often they would take a core for themselves. */
const COMMAND_POLL_MS = 1_000
/** A probe or two, and a look that isn't left out by chance. */
const PLAN_TIMEOUT_MS = 20_000
const REPORT_TIMEOUT_MS = 10_000

/** Of a paused node, line by line: each move with its sum, the best first, and why it is or isn't made. */
const sumOf = (outcome: string): RegExp[] => [
  /^ {2}TERM +MS·S$/,
  /^ {2}clients +\+[\d,]+ +[\d.]+ ms there, [\d.]+ ms here, for /,
  /^ {2}pages +-[\d,]+ .* not measured$/,
  /^ {2}template +0 +is there$/,
  /^ {2}blackout +-[\d,]+ +[\d.]+ ms$/,
  /^ {2}memory +-[\d,]+ .* there$/,
  /^ {2}load +(-[\d,]+|0) /,
  new RegExp(`^ {2}sum +-?[\\d,]+ +${outcome}$`),
  /^$/,
]
const PLAN = [
  /^edge-3: paused, so nothing is moved$/,
  /^$/,
  ...[/^api → edge-4 {2}moves$/, ...sumOf('pays')],
  ...[/^api → edge-1 {2}stays: another move gains more$/, ...sumOf('pays')],
  ...[/^api → edge-2 {2}stays: saves less than the 1\d ms that count$/, ...sumOf('does not pay')],
  /^pinned {2}stays: it was not started with --auto, or has a disk of its own$/,
]
const TEST_TIMEOUT_MS = 240_000

const whyNot = await DelayedNetwork.whyNot()
if (whyNot !== null) console.log(`skipped: ${whyNot}`)

const cleanup = new AsyncDisposableStack()
const agents = new Map<Node, AgentUnderTest>()
let network: DelayedNetwork
let templateId: string

beforeAll(async () => {
  if (whyNot !== null) return
  const guest = await testGuest()
  network = cleanup.use(await DelayedNetwork.start([...NODES, CLIENT, ...FIXED_CLIENTS], guest.qemu))
  const [first, ...others] = NODES
  const here = await startAgent(first)
  const { token } = await here.json<{ token: string }>('mesh', 'token')
  const { id } = await here.json<{ id: string }>(
    ...['template', 'create', 'web', '--memory', '96M', '--ready', 'drover-guest ready'],
    ...['--kernel', guest.kernel, '--initrd', guest.initrd, '--append', guest.append],
  )
  templateId = id
  // While no way is long yet.
  await Promise.all(
    others.map(async (name) => {
      const agent = await startAgent(name, '--join', token)
      await met(here, agent)
      await agent.json('template', 'pull', id, '--from', first)
    }),
  )
  for (const client of FIXED_CLIENTS) {
    for (const node of NODES) network.setRoundTrip(client, node, FIXED_MS[client][node])
  }
  NODES.forEach((one, i) => {
    NODES.slice(0, i).forEach((other, j) => {
      network.setRoundTrip(one, other, MIN_BETWEEN_NODES_MS + BETWEEN_NODES_STEP_MS * (i + j))
    })
  })
}, TEST_TIMEOUT_MS)
afterAll(async () => {
  // Each ends its VMs first: side by side.
  await Promise.all([...agents.values()].map((agent) => agent[Symbol.asyncDispose]()))
  await cleanup.disposeAsync()
})

async function startAgent(name: Node, ...more: string[]): Promise<AgentUnderTest> {
  const { address, prefix } = network.host(name)
  const { qemu } = await testGuest()
  const flags = ['--accel', 'tcg', '--qemu', qemu, '--listen', `/ip4/${address}/tcp/${AGENT_PORT}`, ...more]
  const agent = await AgentUnderTest.start({ name, prefix, flags })
  agents.set(name, agent)
  return agent
}

function walkTo(nearest: Node): void {
  for (const node of NODES) network.setRoundTrip(CLIENT, node, node === nearest ? NEAR_MS : FAR_MS[node])
}

function startClient(): PollingClient {
  const { address, prefix } = network.host(CLIENT)
  const url = (node: Node) => `http://${network.host(node).address}:${GUEST_PORT}/counter`
  const urls = Object.fromEntries(NODES.map((node) => [node, url(node)]))
  return PollingClient.start(prefix, { listen: { host: address, port: CLIENT_PORT }, urls })
}

/** Until it is `node` that answers the client. @returns when that was */
async function answeredBy(client: PollingClient, node: Node, timeoutMs: number): Promise<number> {
  const last = () => client.answers.at(-1)?.node
  await until(`${node} answers`, () => last() === node, timeoutMs, POLL_MS)
  return Date.now()
}

/** `expect.poll` is of no use to tests that go on side by side and share what waits. */
async function until(
  what: string,
  isSo: () => boolean | Promise<boolean>,
  timeoutMs: number,
  intervalMs = COMMAND_POLL_MS,
): Promise<void> {
  const see = async () => {
    if (!(await isSo())) throw new Error(`not so in ${timeoutMs} ms: ${what}`)
  }
  await vi.waitFor(see, { timeout: timeoutMs, interval: intervalMs })
}

/** Moves of some VMs, from and to every node. */
async function movesOf(isMeant: (vm: string) => boolean): Promise<MigrationReply[]> {
  const listed = await Promise.all(
    [...agents.values()].map((agent) => agent.json<{ migrations: MigrationReply[] }>('migration', 'ls')),
  )
  return listed.flatMap(({ migrations }) => migrations.filter(({ vm }) => isMeant(vm)))
}

/** What `rebalance plan` prints, once it says that. */
async function planSaying(agent: AgentUnderTest, words: RegExp): Promise<string> {
  let text = ''
  const says = async () => {
    text = (await agent.run(['rebalance', 'plan'])).stdout
    return words.test(text)
  }
  await until(`the plan says ${words}`, says, PLAN_TIMEOUT_MS)
  return text
}

/** Where VMs are, by name, as a node has heard. */
async function whereabouts(agent: AgentUnderTest): Promise<Record<string, string>> {
  const { vms } = await agent.json<MeshVmsReply & Record<string, unknown>>('vm', 'ls', '--mesh')
  return Object.fromEntries(vms.map(({ name, node }) => [name, node]))
}

test.skipIf(whyNot !== null)(
  'a VM follows its client from node to node, and the client hardly notices',
  { timeout: TEST_TIMEOUT_MS, concurrent: true },
  async ({ expect }) => {
    const here = agents.get('edge-1')!
    walkTo('edge-2')
    const client = cleanup.use(startClient())
    const { createdAtMs } = await here.json<VmReply>(
      ...['vm', 'run', 'web', '--template', 'web', '--nic', `user,forward=${GUEST_PORT}:80`],
      ...['--client', `${network.host(CLIENT).address}:${CLIENT_PORT}`, '--auto'],
    )
    await inGuest(here, 'web', 'workload counter start')
    await answeredBy(client, 'edge-1', 10_000)

    const mayMoveAtMs = createdAtMs + DEFAULT_CALM.minAgeMs
    const firstAtMs = await answeredBy(client, 'edge-2', mayMoveAtMs + FOLLOW_TIMEOUT_MS - Date.now())
    await sleep(BASE_COOL_DOWN_MS)
    const walkedAtMs = Date.now()
    walkTo('edge-3')
    const secondAtMs = await answeredBy(client, 'edge-3', FOLLOW_TIMEOUT_MS)
    await sleep(STAY_MS)

    const untilMs = Date.now()
    const moves = await movesOf((vm) => vm === 'web')
    const blackoutMs = Math.max(...moves.map(({ durationsMs }) => durationsMs.blackout))
    const gapMs = longestGapMs(client.answers, untilMs)
    console.log(
      [
        `at the client ${firstAtMs - mayMoveAtMs} ms after it might move`,
        `${secondAtMs - walkedAtMs} ms after the client had moved`,
        `longest gap ${gapMs} ms, blackouts ${moves.map(({ durationsMs }) => Math.round(durationsMs.blackout)).join(' and ')} ms`,
        `${client.answers.length} answers`,
      ].join('; '),
    )
    expect(nodesInTurn(client.answers)).toEqual(['edge-1', 'edge-2', 'edge-3'])
    expect(moves.map(({ outcome }) => outcome)).toEqual(['completed', 'completed'])
    expect(answersOfThePast(client.answers)).toEqual([])
    expect(gapMs).toBeLessThanOrEqual(blackoutMs + GAP_BESIDE_BLACKOUT_MS)
  },
)

test.skipIf(whyNot !== null)(
  'a VM goes where its clients are nearest by weight, once its node is no longer paused, and again when its clients change',
  { timeout: TEST_TIMEOUT_MS, concurrent: true },
  async ({ expect }) => {
    const [home, best, other] = (['edge-3', 'edge-4', 'edge-2'] as const).map((name) => agents.get(name)!)
    const client = (name: (typeof FIXED_CLIENTS)[number], weight: number) => {
      return ['--client', `${network.host(name).address}:${CLIENT_PORT}=${weight}`]
    }
    const run = (agent: AgentUnderTest, name: string, ...flags: string[]) =>
      agent.json<VmReply>('vm', 'run', name, '--template', templateId, ...flags)
    await home!.json('rebalance', 'pause')
    const { createdAtMs } = await run(home!, 'api', ...client('west', 1), ...client('east', 3), '--auto')
    await run(home!, 'pinned', ...client('west', 1))
    await run(best!, 'near', ...client('east', 1), '--auto')

    // It would be moved as soon as it may, look after look.
    const looks = new Set<number>()
    const wouldMove = async () => {
      const { lookedAtMs, moves } = await home!.json<RebalancePlanReply & Record<string, unknown>>(
        'rebalance',
        'plan',
      )
      if (moves.some(({ to, verdict }) => to?.name === 'edge-4' && verdict.kind === 'move'))
        looks.add(lookedAtMs!)
      return looks.size >= PAUSED_LOOKS
    }
    const mayMoveAtMs = createdAtMs + DEFAULT_CALM.minAgeMs
    await until('a paused node would move it', wouldMove, mayMoveAtMs + FOLLOW_TIMEOUT_MS - Date.now())
    const lines = (await planSaying(home!, /^api → edge-4 {2}moves$/m)).trimEnd().split('\n')
    expect(lines).toEqual(PLAN.map((line) => expect.stringMatching(line)))
    const status = await home!.json<RebalanceReply & Record<string, unknown>>('rebalance', 'status')
    expect(status).toMatchObject({ paused: true, vms: 1, moves: { decided: 0 } })

    const resumedAtMs = Date.now()
    await home!.json('rebalance', 'resume')
    const isAt = (node: Node) => async () => (await whereabouts(other!)).api === node
    await until('api is at edge-4', isAt('edge-4'), FOLLOW_TIMEOUT_MS)
    const firstMs = Date.now() - resumedAtMs

    const setAtMs = Date.now()
    await other!.json('vm', 'set', 'api', ...client('west', 9), ...client('east', 1))
    await planSaying(best!, /^api → edge-1 {2}stays: it moved lately: may move again in .* s$/m)
    await until('api is at edge-1', isAt('edge-1'), BASE_COOL_DOWN_MS + FOLLOW_TIMEOUT_MS)
    console.log(
      `at edge-4 ${firstMs} ms after it was resumed, at edge-1 ${Date.now() - setAtMs} ms after the change`,
    )
    expect(await whereabouts(other!)).toMatchObject({ api: 'edge-1', pinned: 'edge-3', near: 'edge-4' })
    const outcomes = async () =>
      (await movesOf((vm) => vm !== 'web')).map(({ vm, outcome }) => `${vm} ${outcome}`)
    // The source's report comes after the announcement of who has it.
    const haveEnded = async () => expect(await outcomes()).toEqual(['api completed', 'api completed'])
    await vi.waitFor(haveEnded, { timeout: REPORT_TIMEOUT_MS, interval: COMMAND_POLL_MS })
  },
)
