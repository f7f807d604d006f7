/** Moves that are broken off in the middle, from either side: the VM goes on at the source, nothing is left behind. */
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import type { MigrationReport } from '../../src/domain/migration.ts'
import type { AgentUnderTest } from '../support/drover.ts'
import { inRounds, MoveUnderWay, SLOW } from '../support/move-under-way.ts'
import { type NodeState, nodeState, qemuPids } from '../support/node-state.ts'
import {
  expectCounting,
  inGuest,
  met,
  move,
  removeVm,
  runVm,
  showVm,
  TwoNodes,
  vmNames,
} from '../support/two-nodes.ts'

/** At 50 Mbit/s on its way for seven seconds. */
const DATA_MIB = 40
/** A fifth of it is on its way when something happens. */
const MIDDLE_PAGES = 2_000
const MOVE = ['data', '--to', 'edge-2', ...SLOW] as const
/** Cancelling takes one farewell of a second at most; the rest is what a busy machine takes. */
const CANCEL_MS = 5_000
const CLEANUP_TIMEOUT_MS = 20_000

let nodes: TwoNodes
let counter = 0
let id: string
let epoch: number
let clean: NodeState
beforeAll(async () => {
  nodes = await TwoNodes.start({ memory: '256M' })
  const { source, destination } = nodes
  // The first move opens what a node keeps open from then on.
  await runVm(source, 'warm-up')
  await move(source, 'warm-up', destination)
  await removeVm(destination, 'warm-up')
  clean = await nodeState(destination)
  await runVm(source, 'data')
  await inGuest(source, 'data', `workload data ${DATA_MIB} a`)
  await inGuest(source, 'data', 'workload counter start')
  ;({ id, epoch } = await showVm(source, 'data'))
})
afterAll(() => nodes?.[Symbol.asyncDispose]())

/** After each break: the same VM runs on here, in the same epoch, and the other node has nothing of it. */
afterEach(async () => {
  const { source, destination } = nodes
  counter = await expectCounting(source, 'data', counter)
  expect(await showVm(source, 'data')).toMatchObject({ id, epoch, migrationId: null })
  expect(await vmNames(destination)).toEqual([])
  await expect
    .poll(() => leftovers(destination), { timeout: CLEANUP_TIMEOUT_MS, interval: 250 })
    .toEqual(await leftovers(destination, clean))
})

/** An agent that was started again listens elsewhere and has other files open; the rest must be as it was. */
async function leftovers(agent: AgentUnderTest, state?: NodeState): Promise<Omit<NodeState, 'listeners'>> {
  const { listeners: _, ...rest } = state ?? (await nodeState(agent))
  return rest
}

test('Ctrl-C in the middle', async () => {
  const underWay = await MoveUnderWay.start(nodes.source, MOVE, inRounds(MIDDLE_PAGES))
  expect(await qemuPids(nodes.destination)).toHaveLength(1)
  const atMs = performance.now()
  underWay.interrupt()
  const { code, report } = await underWay.report()
  expect(performance.now() - atMs).toBeLessThan(CANCEL_MS)
  expect({ code, outcome: report.outcome, error: report.error?.code }).toEqual({
    code: 130,
    outcome: 'cancelled',
    error: 'MIGRATION_CANCELLED',
  })
})

test('`migration cancel` in the middle', async () => {
  const { source } = nodes
  const underWay = await MoveUnderWay.start(source, MOVE, inRounds(MIDDLE_PAGES))
  const watched = source.run(['migration', 'watch', underWay.migrationId, '--json'])
  const atMs = performance.now()
  expect((await source.run(['migration', 'cancel', underWay.migrationId])).code).toBe(0)
  const { code, report } = await underWay.report()
  expect(performance.now() - atMs).toBeLessThan(CANCEL_MS)
  expect({ code, outcome: report.outcome }).toEqual({ code: 130, outcome: 'cancelled' })
  expect(await watched).toMatchObject({ code: 130 })
})

test('while it is on its way, nobody else commands the VM', async () => {
  const { source } = nodes
  const underWay = await MoveUnderWay.start(source, MOVE, inRounds(MIDDLE_PAGES))
  for (const command of [
    ['vm', 'pause', 'data'],
    ['vm', 'stop', 'data', '--force'],
    ['migrate', ...MOVE],
  ]) {
    const { code, stdout } = await source.run([...command, '--json'])
    expect({ code, error: JSON.parse(stdout).error.code }).toEqual({ code: 3, error: 'VM_BUSY' })
  }
  underWay.interrupt()
  expect(await underWay.report()).toMatchObject({ code: 130, report: { outcome: 'cancelled' } })
})

test("the destination's QEMU dies in the middle", async () => {
  const { source, destination } = nodes
  const underWay = await MoveUnderWay.start(source, MOVE, inRounds(MIDDLE_PAGES))
  const [pid] = await qemuPids(destination)
  const atMs = performance.now()
  process.kill(pid!, 'SIGKILL')
  const { code, report } = await underWay.report()
  expect(performance.now() - atMs).toBeLessThan(CANCEL_MS)
  expect({ code, outcome: report.outcome, error: report.error?.code }).toEqual({
    code: 1,
    outcome: 'failed',
    error: 'PEER_ABORTED',
  })
})

test('the destination is killed in the middle', async () => {
  const { source, destination } = nodes
  const underWay = await MoveUnderWay.start(source, MOVE, inRounds(MIDDLE_PAGES))
  const atMs = performance.now()
  await destination.stop('SIGKILL')
  const { code, report } = await underWay.report()
  expect(performance.now() - atMs).toBeLessThan(CANCEL_MS)
  expect({ code, outcome: report.outcome }).toEqual({ code: 1, outcome: 'failed' })
  expect(['PEER_LOST', 'CHANNEL_RESET']).toContain(report.error?.code)
  counter = await expectCounting(source, 'data', counter)
  await destination.start()
  await met(source, destination)
})

test('the destination freezes in the middle, and is cancelled', async () => {
  const { source, destination } = nodes
  const underWay = await MoveUnderWay.start(source, MOVE, inRounds(MIDDLE_PAGES))
  process.kill(destination.pid, 'SIGSTOP')
  try {
    counter = await expectCounting(source, 'data', counter, { state: 'departing' })
    const atMs = performance.now()
    expect((await source.run(['migration', 'cancel', underWay.migrationId])).code).toBe(0)
    expect(await underWay.report()).toMatchObject({ code: 130, report: { outcome: 'cancelled' } })
    expect(performance.now() - atMs).toBeLessThan(CANCEL_MS)
    counter = await expectCounting(source, 'data', counter)
  } finally {
    process.kill(destination.pid, 'SIGCONT')
  }
})

test('the source is stopped in the middle', async () => {
  const { source, destination } = nodes
  const { pid } = await showVm(source, 'data')
  const underWay = await MoveUnderWay.start(source, MOVE, inRounds(MIDDLE_PAGES))
  expect(await source.stop('SIGTERM')).toBe(0)
  const { code, stdout } = await underWay.ended
  expect({ code, error: JSON.parse(stdout).error.code }).toEqual({ code: 1, error: 'AGENT_GONE' })
  await expect.poll(() => qemuPids(destination), { timeout: CLEANUP_TIMEOUT_MS }).toEqual([])
  await source.start()
  expect(await showVm(source, 'data')).toMatchObject({ pid, state: 'running' })
  const { migrations } = await source.json<{ migrations: MigrationReport[] }>('migration', 'ls')
  expect(migrations.at(-1)).toMatchObject({ migrationId: underWay.migrationId, outcome: 'cancelled' })
  await met(source, destination)
})

test('the source is killed in the middle', async () => {
  const { source, destination } = nodes
  const { pid } = await showVm(source, 'data')
  const underWay = await MoveUnderWay.start(source, MOVE, inRounds(MIDDLE_PAGES))
  await source.stop('SIGKILL')
  const { code, stdout } = await underWay.ended
  expect({ code, error: JSON.parse(stdout).error.code }).toEqual({ code: 1, error: 'AGENT_GONE' })
  await expect.poll(() => qemuPids(destination), { timeout: CLEANUP_TIMEOUT_MS }).toEqual([])
  await source.start()
  expect(await showVm(source, 'data')).toMatchObject({ pid, state: 'running' })
  await met(source, destination)
})

test('after all of that the VM moves, and has lost nothing', async () => {
  const { source, destination } = nodes
  await move(source, 'data', destination)
  counter = await expectCounting(destination, 'data', counter)
  expect(await inGuest(destination, 'data', 'workload check')).toBe('ok')
  await move(destination, 'data', source)
  ;({ id, epoch } = await showVm(source, 'data'))
  expect(await inGuest(source, 'data', 'workload check')).toBe('ok')
})
