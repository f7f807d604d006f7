/** A node that gives its VMs away: three real agents, real QEMU. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { DrainReply, StatusReply } from '../../src/agent/api-schema.ts'
import type { MigrationReport } from '../../src/domain/migration.ts'
import { type AgentUnderTest, LAUNCHER } from '../support/drover.ts'
import { pastEvents } from '../support/herd.ts'
import { expectCounting, inGuest, met, runVm, showVm, TwoNodes, vmNames } from '../support/two-nodes.ts'

let nodes: TwoNodes
let third: AgentUnderTest
/** Has no room for any VM, and a budget that no template fits. */
let full: AgentUnderTest
beforeAll(async () => {
  nodes = await TwoNodes.start({ memory: '128M' })
  third = await nodes.join('edge-3', [])
  full = await nodes.join('edge-4', ['--prefetch', '1M', '--memory-limit', '1M'])
  await met(nodes.destination, third)
})
afterAll(() => nodes?.[Symbol.asyncDispose]())

async function drain(
  agent: AgentUnderTest,
  ...peer: string[]
): Promise<{ code: number; reply: DrainReply; stderr: string }> {
  const { code, stdout, stderr } = await agent.run(['drain', ...peer, '--json'])
  return { code, reply: JSON.parse(stdout) as DrainReply, stderr }
}

const placed = ({ moved }: DrainReply) => moved.map(({ vm, node }) => `${vm} ${node}`).toSorted()

/** Until a node has heard which VMs another one has, and whether it is draining. */
async function heard(agent: AgentUnderTest, name: string, expected: object): Promise<void> {
  const view = async () => {
    const { members } = await agent.json<{ members: { name: string }[] }>('mesh', 'ls')
    return members.find((member) => member.name === name)
  }
  await expect.poll(view, { timeout: 10_000, interval: 100 }).toMatchObject(expected)
}

test('VMs of a drained node go to the node that has their template, and to the next one where that refuses', async () => {
  const { source, destination, templateId } = nodes
  for (const name of ['web-1', 'web-2', 'web-3']) await runVm(source, name)
  await inGuest(source, 'web-1', 'workload counter start')
  // Another VM there has that name.
  await destination.json('vm', 'run', 'web-2', '--template', templateId)
  await heard(source, 'edge-2', { vmsTotal: 1 })

  const { code, reply, stderr } = await drain(source)
  expect({ code, stderr }).toEqual({
    code: 0,
    stderr: expect.stringContaining('takes no VMs until `drover ready`'),
  })
  expect(placed(reply)).toEqual(['web-1 edge-2', 'web-2 edge-3', 'web-3 edge-2'])
  expect(reply).toMatchObject({ node: 'edge-1', notPlaced: [], stopped: [] })
  expect(reply.moved[0]).toMatchObject({
    migrationId: expect.stringMatching(/^[0-9a-f-]{36}$/),
    durationsMs: { total: expect.any(Number), blackout: expect.any(Number) },
  })
  await expectCounting(destination, 'web-1', 1)
  expect(await vmNames(source)).toEqual([])
  const kinds = async () => (await pastEvents(source)).map(({ kind }) => kind)
  await expect
    .poll(kinds, { timeout: 20_000 })
    .toEqual(expect.arrayContaining(['node-draining', 'drain-ended']))
})

test('a drained node refuses what is sent to it, and others see it', async () => {
  const { destination } = nodes
  await heard(destination, 'edge-1', { draining: true, vmsTotal: 0 })
  const { code, stdout } = await destination.run(['migrate', 'web-1', '--to', 'edge-1', '--json'])
  const report = JSON.parse(stdout) as MigrationReport
  expect(report).toMatchObject({ outcome: 'refused', error: { code: 'NODE_DRAINING' } })
  expect(code).toBe(3)
  const herd = await destination.run(['migrate', 'web-1', 'web-3', '--to', 'edge-1', '--json'])
  expect(herd.stdout.match(/NODE_DRAINING/g)).toHaveLength(2)
  await expectCounting(destination, 'web-1', 1)
})

test('what can go nowhere stays, with the reasons of each node; a stopped VM has nothing to move', async () => {
  const { source, destination } = nodes
  await destination.json('vm', 'run', 'off', '--template', nodes.templateId)
  await destination.json('vm', 'stop', 'off', '--force')
  await heard(source, 'edge-3', { vmsTotal: 1 })
  await heard(destination, 'edge-3', { vmsTotal: 1 })

  // From another node.
  const { code, reply } = await drain(source, 'edge-2')
  expect(placed(reply)).toEqual(['web-1 edge-3', 'web-3 edge-3'])
  expect(reply).toMatchObject({
    node: 'edge-2',
    notPlaced: [{ vm: 'web-2', code: 'NO_DESTINATION', outcome: 'refused' }],
    stopped: ['off'],
  })
  const message = /edge-3: .*\(NAME_TAKEN\).*edge-4: .*\(NOT_ENOUGH_MEMORY\).*edge-1: .*\(NODE_DRAINING\)/
  expect(reply.notPlaced[0]!.message).toMatch(message)
  expect(code).toBe(3)
  expect(await showVm(destination, 'web-2')).toMatchObject({ state: 'running', runState: 'running' })
  await expectCounting(third, 'web-1', 1)
  expect(await source.json('ready')).toEqual({ node: 'edge-1', draining: false })
  await heard(third, 'edge-1', { draining: false })
})

test('Ctrl-C cancels the moves under way: what has not left runs on, and the node still takes none', async () => {
  const { source } = nodes
  await heard(third, 'edge-2', { draining: true })
  // It takes the offers in, and answers none.
  process.kill(source.pid, 'SIGSTOP')
  try {
    const child = spawn(process.execPath, [LAUNCHER, '--socket', third.socket, 'drain', '--json'], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const output = child.stdout.setEncoding('utf8').toArray()
    const exited = once(child, 'exit')
    await expect.poll(() => underWay(third), { timeout: 10_000 }).toBe(3)
    child.kill('SIGINT')
    expect((await exited)[0]).toBe(130)
    const reply = JSON.parse((await output).join('')) as DrainReply
    expect(reply.moved).toEqual([])
    expect(reply.notPlaced.map(({ vm, outcome }) => [vm, outcome]).toSorted()).toEqual([
      ['web-1', 'cancelled'],
      ['web-2', 'cancelled'],
      ['web-3', 'cancelled'],
    ])
  } finally {
    process.kill(source.pid, 'SIGCONT')
  }
  expect(await third.json('status')).toMatchObject({ draining: true, counts: { vmsRunning: 3 } })
  await expectCounting(third, 'web-1', 1)
  expect((await third.run(['vm', 'run', 'new', '--template', nodes.templateId])).code).toBe(3)
})

test('a node looks at the template of their VMs, although nobody asked for it, and leaves what is beyond its budget', async () => {
  const { templateId } = nodes
  await expect
    .poll(() => pastEvents(full), { timeout: 60_000 })
    .toContainEqual(
      expect.objectContaining({ kind: 'template-prefetch-ended', id: templateId, reason: 'too-large' }),
    )
  expect((await full.json<Pick<StatusReply, 'prefetch'>>('status')).prefetch).toMatchObject({ spentBytes: 0 })
  expect(await full.json('template', 'ls')).toEqual({ templates: [] })
})

async function underWay(agent: AgentUnderTest): Promise<number> {
  const { counts } = await agent.json<{ counts: { migrationsRunning: number } }>('status')
  return counts.migrationsRunning
}
