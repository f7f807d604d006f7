/**
 * What nodes do with nobody to tell them: a node short of memory moves a VM
 * away, one that joins brings in what it may need, and VMs of one that fell
 * silent are told of. Real agents, real QEMU; what takes long goes on meanwhile.
 */
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import type { MeshVmReply, MeshVmsReply, StatusReply } from '../../src/agent/api-schema.ts'
import type { AgentUnderTest } from '../support/drover.ts'
import { EventLog } from '../support/event-log.ts'
import { expectCounting, inGuest, showVm, TwoNodes, vmNames } from '../support/two-nodes.ts'

const MIB = 1024 ** 2

/** A clone fits in beside its template; one that grew by so much fits in nowhere. */
const ROOM_FOR_A_CLONE = '150M'
const ROOM_TO_GROW = '200M'
const GROWTH_MIB = 112
const BUDGET_BYTES = 128 * MIB
/** As in README, of what comes before it is needed. */
const PREFETCH_BYTES_PER_SECOND = 2 * MIB
/** Five agents and a template, on two cores that others use as well. */
const SETUP_TIMEOUT_MS = 300_000
const HEARD_TIMEOUT_MS = 15_000
/** Three samples, a move, and a guest that is in the way of others. */
const PRESSURE_TIMEOUT_MS = 30_000
/** A move that was refused is tried again after 30 to 45 s. */
const MAX_FIRST_BACK_OFF_MS = 45_000
/** A look, a wait at random, and the template at 2 MiB/s. */
const PREFETCH_TIMEOUT_MS = 120_000
/** Three and a half beats of 15 s. */
const SILENCE_TIMEOUT_MS = 80_000

const cleanup = new AsyncDisposableStack()
let nodes: TwoNodes
/** Falls silent. */
let silent: AgentUnderTest
/** Bring in what is in demand, and nothing. */
let fetching: AgentUnderTest
let abstaining: AgentUnderTest
let logs: Record<'edge-1' | 'edge-2' | 'fetching' | 'abstaining', EventLog>
/** The silent node's VM as it was heard of, and where it was in its count. */
let far: MeshVmReply & { pid: number; count: number }

beforeAll(async () => {
  nodes = cleanup.use(await TwoNodes.start({ memory: '192M', flags: ['--memory-limit', ROOM_TO_GROW] }))
  const { source, destination, templateId } = nodes
  await source.json('drain')
  const startSilent = async () => {
    silent = await nodes.join('silent', ['--memory-limit', ROOM_FOR_A_CLONE])
    await silent.json('template', 'pull', templateId, '--from', source.name)
    await silent.json('vm', 'run', 'far', '--template', templateId, '--auto')
    await inGuest(silent, 'far', 'workload counter start')
  }
  const [, ...joined] = await Promise.all([
    startSilent(),
    nodes.join('fetching', ['--prefetch', String(BUDGET_BYTES), '--memory-limit', ROOM_FOR_A_CLONE]),
    nodes.join('abstaining', ['--prefetch', '0', '--memory-limit', '1M']),
  ])
  ;[fetching, abstaining] = joined
  for (const agent of [source, destination, ...joined]) {
    const heard = async () =>
      expect(await farAsSeenFrom(agent)).toMatchObject({ node: 'silent', state: 'running' })
    await vi.waitFor(heard, { timeout: HEARD_TIMEOUT_MS, interval: 500 })
  }
  far = {
    ...(await farAsSeenFrom(source))!,
    pid: (await showVm(silent, 'far')).pid!,
    count: Number(await inGuest(silent, 'far', 'workload counter read')),
  }
  logs = {
    'edge-1': cleanup.use(new EventLog(source)),
    'edge-2': cleanup.use(new EventLog(destination)),
    fetching: cleanup.use(new EventLog(fetching)),
    abstaining: cleanup.use(new EventLog(abstaining)),
  }
  await silent.stop('SIGKILL')
}, SETUP_TIMEOUT_MS)
afterAll(async () => {
  // Nobody else ends its VM.
  if (silent !== undefined && (await silent.run(['status'])).code !== 0) await silent.start()
  await cleanup.disposeAsync()
})

async function farAsSeenFrom(agent: AgentUnderTest): Promise<MeshVmReply | undefined> {
  const { vms } = await agent.json<MeshVmsReply & Record<string, unknown>>('vm', 'ls', '--mesh')
  return vms.find(({ name }) => name === 'far')
}

test('a node whose guests grew beyond its limit says so where no other has room, and moves one as soon as one has', async () => {
  const { source, destination, templateId } = nodes
  const log = logs['edge-2']
  await destination.json('vm', 'run', 'web', '--template', templateId, '--auto')
  await inGuest(destination, 'web', 'workload counter start')
  await inGuest(destination, 'web', `dd if=/dev/zero of=/run/workload/grown bs=1M count=${GROWTH_MIB}`)
  const kinds = () => log.kinds('memory-')
  // While it still grows a move may be begun, and is refused when it has grown.
  await expect
    .poll(() => kinds().at(-1), { timeout: PRESSURE_TIMEOUT_MS })
    .toBe('memory-pressure-not-relieved')
  const before = kinds()
  expect(before[0]).toBe('memory-pressure')
  expect(before).not.toContain('memory-pressure-moved')
  const [pressure] = log.of('memory-pressure')
  expect(pressure).toMatchObject({ cause: 'over-limit', vms: [{ name: 'web', auto: true }] })
  expect(pressure!.committedBytes).toBeGreaterThan(pressure!.limitBytes as number)
  const count = await expectCounting(destination, 'web', 1)
  await source.json('ready')
  await expect
    .poll(() => kinds().slice(before.length), { timeout: PRESSURE_TIMEOUT_MS + MAX_FIRST_BACK_OFF_MS })
    .toEqual(['memory-pressure-moves', 'memory-pressure-moved', 'memory-relieved'])
  expect(log.of('memory-pressure-moved')).toMatchObject([{ vm: 'web', node: 'edge-1' }])
  await expectCounting(source, 'web', count)
  expect(await vmNames(destination)).toEqual([])
  const [pressed, told, moved] = [
    'memory-pressure',
    'memory-pressure-not-relieved',
    'memory-pressure-moved',
  ].map((kind) => log.of(kind)[0])
  console.log(
    `pressure of ${Math.round((pressed!.committedBytes as number) / MIB)} MiB; told of no way out ` +
      `${told!.atMs - pressed!.atMs} ms later; moved ${moved!.atMs - pressed!.atMs} ms after the pressure`,
  )
})

test('a node that joined gets the template of their VMs, unasked and whole, within its budget; none with --prefetch 0', async () => {
  const log = logs.fetching
  await expect.poll(() => log.of('template-prefetched'), { timeout: PREFETCH_TIMEOUT_MS }).toHaveLength(1)
  const [started, fetched] = log.events.filter(({ kind }) => kind.startsWith('template-prefetch'))
  const bytesReceived = fetched!.bytesReceived as number
  const ms = fetched!.atMs - started!.atMs
  console.log(`${(bytesReceived / MIB).toFixed(1)} MiB in ${ms} ms, without being asked`)
  expect(ms).toBeGreaterThan((bytesReceived / PREFETCH_BYTES_PER_SECOND) * 0.9 * 1000)
  const prefetchOf = async (agent: AgentUnderTest) =>
    (await agent.json<Pick<StatusReply, 'prefetch'>>('status')).prefetch!
  const { limitBytesPerHour, spentBytes } = await prefetchOf(fetching)
  expect(limitBytesPerHour).toBe(BUDGET_BYTES)
  expect(spentBytes).toBe(bytesReceived + (log.of('template-pulled')[0]!.bytesSent as number))
  expect(spentBytes).toBeLessThanOrEqual(BUDGET_BYTES)
  expect(await fetching.json('template', 'verify', '--no-repair')).toMatchObject({
    templates: [{ id: nodes.templateId, ok: true }],
  })
  await fetching.json('vm', 'run', 'near', '--template', nodes.templateId)
  await inGuest(fetching, 'near', 'workload counter start')
  await expectCounting(fetching, 'near', 1)

  expect(await prefetchOf(abstaining)).toEqual({ limitBytesPerHour: 0, spentBytes: 0 })
  expect(await abstaining.json('template', 'ls')).toEqual({ templates: [] })
  expect(logs.abstaining.kinds('template-')).toEqual([])
})

test('VMs of a node that fell silent are told of once by each other node, and unreachable; nobody starts them elsewhere', async () => {
  const { source, destination } = nodes
  const told = () => Object.values(logs).map((log) => log.of('vms-lost-sight').length)
  await expect.poll(told, { timeout: SILENCE_TIMEOUT_MS }).toEqual([1, 1, 1, 1])
  for (const agent of [source, destination, fetching, abstaining]) {
    expect(await farAsSeenFrom(agent)).toMatchObject({ id: far.id, node: 'silent', state: 'unreachable' })
    expect(await vmNames(agent)).not.toContain('far')
  }
  const [event] = logs['edge-1'].of('vms-lost-sight')
  expect(event).toMatchObject({ node: 'silent', peerId: far.peerId, vms: [{ id: far.id, name: 'far' }] })
  // It runs on.
  process.kill(far.pid, 0)

  await silent.start()
  const { pid, count, ...seen } = far
  await expect
    .poll(() => farAsSeenFrom(source), { timeout: HEARD_TIMEOUT_MS, interval: 250 })
    .toEqual({ ...seen, unreachableSinceMs: null })
  expect(await showVm(silent, 'far')).toMatchObject({ pid, state: 'running' })
  expect(await expectCounting(silent, 'far', count)).toBeGreaterThan(count)
  expect(told()).toEqual([1, 1, 1, 1])
})
