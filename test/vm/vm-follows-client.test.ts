/**
 * The rebalancer for real: four agents and a client on hosts that are as far
 * from each other as the test wants. The client walks from one node to another,
 * polls the VM meanwhile, and the VM follows.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { MigrationReply, VmReply } from '../../src/agent/api-schema.ts'
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

/** What the rebalancer promises: the VM is at its client so soon after a change. */
const FOLLOW_TIMEOUT_MS = 30_000
/** What a client may miss besides the blackout: its connection is a new one, on another way. */
const GAP_BESIDE_BLACKOUT_MS = 1_000
/** Enough for a move that was begun at once to show. */
const STAY_MS = 5_000
const POLL_MS = 100
const TEST_TIMEOUT_MS = 240_000

const whyNot = await DelayedNetwork.whyNot()
if (whyNot !== null) console.log(`skipped: ${whyNot}`)

const cleanup = new AsyncDisposableStack()
const agents = new Map<Node, AgentUnderTest>()
let network: DelayedNetwork

beforeAll(async () => {
  if (whyNot !== null) return
  const guest = await testGuest()
  network = cleanup.use(await DelayedNetwork.start([...NODES, CLIENT], guest.qemu))
  const [first, ...others] = NODES
  const here = await startAgent(first)
  const { token } = await here.json<{ token: string }>('mesh', 'token')
  const { id } = await here.json<{ id: string }>(
    ...['template', 'create', 'web', '--memory', '96M', '--ready', 'drover-guest ready'],
    ...['--kernel', guest.kernel, '--initrd', guest.initrd, '--append', guest.append],
  )
  // While no way is long yet.
  await Promise.all(
    others.map(async (name) => {
      const agent = await startAgent(name, '--join', token)
      await met(here, agent)
      await agent.json('template', 'pull', id, '--from', first)
    }),
  )
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
  await expect.poll(last, { timeout: timeoutMs, interval: POLL_MS }).toBe(node)
  return Date.now()
}

/** Moves from and to every node, the earliest first. */
async function allMoves(): Promise<MigrationReply[]> {
  const listed = await Promise.all(
    [...agents.values()].map((agent) => agent.json<{ migrations: MigrationReply[] }>('migration', 'ls')),
  )
  return listed.flatMap(({ migrations }) => migrations)
}

test.skipIf(whyNot !== null)(
  'a VM follows its client from node to node, and the client hardly notices',
  { timeout: TEST_TIMEOUT_MS },
  async () => {
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
    const moves = await allMoves()
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
