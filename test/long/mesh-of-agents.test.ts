/** 24 real agents on one machine: they find each other, and a template that one announces is known to all. */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { MemberReply, NodeReply } from '../../src/agent/api-schema.ts'
import { AgentClient } from '../../src/cli/client.ts'
import { AgentUnderTest } from '../support/drover.ts'
import { testGuest } from '../support/guest.ts'

const AGENTS = 24
/** Started at the same time; each keeps a core busy for a second. */
const PARALLEL_STARTS = 4
const MEET_TIMEOUT_MS = 120_000
const KNOWN_TO_ALL_MS = 2_000
const POLL_MS = 50

const cleanup = new AsyncDisposableStack()
const agents: AgentUnderTest[] = []
let clients: AgentClient[]

beforeAll(async () => {
  const { qemu } = await testGuest()
  const flags = ['--qemu', qemu, '--accel', 'tcg']
  agents.push(cleanup.use(await AgentUnderTest.start({ name: 'node-0', flags })))
  const { token } = await agents[0]!.json<{ token: string }>('mesh', 'token')
  for (let first = 1; first < AGENTS; first += PARALLEL_STARTS) {
    const names = Array.from(
      { length: Math.min(PARALLEL_STARTS, AGENTS - first) },
      (_, i) => `node-${first + i}`,
    )
    const started = names.map((name) => AgentUnderTest.start({ name, flags: [...flags, '--join', token] }))
    for (const agent of await Promise.all(started)) agents.push(cleanup.use(agent))
  }
  // Over their sockets: 24 processes of the command line would measure themselves.
  const signal = new AbortController().signal
  clients = agents.map(({ socket }) => new AgentClient({ socket, signal }))
})
afterAll(() => cleanup.disposeAsync())

async function all<T>(ask: (client: AgentClient) => Promise<T>): Promise<T[]> {
  return Promise.all(clients.map(ask))
}

async function directories(): Promise<NodeReply[][]> {
  const replies = await all((client) => client.request<{ nodes: NodeReply[] }>('GET', '/mesh/directory'))
  return replies.map(({ nodes }) => nodes)
}

test('24 agents find each other, all connected and announced', async () => {
  const startedMs = performance.now()
  await expect
    .poll(
      async () => {
        const members = await all((client) =>
          client.request<{ members: MemberReply[] }>('GET', '/mesh/members'),
        )
        return Math.min(...members.map((reply) => reply.members.filter(({ connected }) => connected).length))
      },
      { timeout: MEET_TIMEOUT_MS, interval: 250 },
    )
    .toBe(AGENTS)
  await expect
    .poll(async () => Math.min(...(await directories()).map((nodes) => nodes.length)), {
      timeout: MEET_TIMEOUT_MS,
      interval: 250,
    })
    .toBe(AGENTS)
  console.log(`all know all ${((performance.now() - startedMs) / 1000).toFixed(1)} s after the last start`)
})

test('a template announced on one is known on all within 2 s', async () => {
  const { kernel, initrd, append } = await testGuest()
  const { id } = await agents[5]!.json<{ id: string }>(
    ...['template', 'create', 'web', '--memory', '128M', '--ready', 'drover-guest ready'],
    ...['--kernel', kernel, '--initrd', initrd, '--append', append],
  )
  const sealedMs = performance.now()
  const holders = async (): Promise<number> => {
    const found = await directories()
    return found.filter((nodes) => nodes.some(({ templates }) => templates.includes(id))).length
  }
  while ((await holders()) < AGENTS && performance.now() - sealedMs < 5 * KNOWN_TO_ALL_MS)
    await sleep(POLL_MS)
  const tookMs = performance.now() - sealedMs
  console.log(`known on all ${AGENTS} ${tookMs.toFixed(0)} ms after \`template create\` had answered`)
  expect(await holders()).toBe(AGENTS)
  expect(tookMs).toBeLessThan(KNOWN_TO_ALL_MS)

  // What is known is of use: one that never heard of it gets it, and is known to have it.
  await agents[17]!.json('template', 'pull', id)
  const { templates } = await agents[23]!.json<{
    templates: { id: string; names: string[]; nodes: { name: string }[] }[]
  }>('template', 'ls', '--mesh')
  expect(templates).toMatchObject([{ id, names: ['web'] }])
  await expect
    .poll(async () =>
      (await directories())[23]!.filter((node) => node.templates.includes(id)).map(({ name }) => name),
    )
    .toEqual(['node-17', 'node-5'])
})
