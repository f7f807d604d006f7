import { randomUUID } from 'node:crypto'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { NO_COOL_DOWN } from '../../src/domain/cool-down.ts'
import type { VmRecord, VmSpec } from '../../src/domain/vm.ts'
import type { ArrivingVm, DepartingVm, ReserveRequest } from '../../src/vm/index.ts'
import { doubtAbout } from '../support/doubt.ts'
import { loadArrival } from '../support/load-arrival.ts'
import { Bench, type TestNode } from './vm-fixture.ts'

const TEST_TIMEOUT_MS = 90_000
const MIGRATION_ID = '7f8d6c1e-25a4-4a39-9d7e-0b6d5a3c1f20'
const RETURN_ID = '0a6f6f0e-5f0f-4a0b-8f52-5d2f3f0f9f11'
const DESTINATION = '12D3KooWDestination'

let bench: Bench
let node: TestNode

beforeAll(async () => {
  bench = await Bench.create()
})
afterAll(() => bench[Symbol.asyncDispose]())
beforeEach(async () => {
  node = await bench.start()
})
afterEach(async () => {
  for (const doubtful of node.vms.inDoubt()) await doubtful.stay()
  for (const { spec } of node.vms.list()) {
    await node.vms.stopVm(spec.id, { force: true, signal: signal() })
    await node.vms.remove(spec.id)
  }
  expect(await bench.pids()).toEqual([])
  await node.stop()
  node = await bench.start()
  expect(await node.runDirs()).toEqual([])
  await node.stop()
})

function signal(): AbortSignal {
  return AbortSignal.timeout(TEST_TIMEOUT_MS)
}

function run(): Promise<VmRecord> {
  return node.vms.run({ name: 'a', templateRef: 'base', nics: [] }, { signal: signal() })
}

/** A VM that may have gone to DESTINATION, and whose QEMU here was killed. */
async function leftInDoubt(): Promise<{ spec: VmSpec; departing: DepartingVm }> {
  const { spec } = await run()
  const departing = await node.vms.depart('a', MIGRATION_ID)
  await departing.doubt(doubtAbout(DESTINATION))
  process.kill(departing.process.pid, 'SIGKILL')
  await expect.poll(() => node.vms.get('a').state.kind, { timeout: 10_000 }).toBe('stopped')
  return { spec, departing }
}

function offer(spec: VmSpec, changes: Partial<ReserveRequest> = {}): ReserveRequest {
  const { machine } = node.templates.resolve('base').manifest
  const base = { source: DESTINATION, spec, epoch: 2, machine, privatePages: 100, templateBytes: 0 }
  return { ...base, migrationId: RETURN_ID, coolDown: NO_COOL_DOWN, ...changes }
}

const load = (arrival: ArrivingVm) => loadArrival(arrival, signal())

/** The VM that came back is whole: its record, its QEMU, its run directory, now and for the next agent. */
async function expectBack(spec: VmSpec): Promise<void> {
  for (const isRestarted of [false, true]) {
    if (isRestarted) {
      await node.stop()
      node = await bench.start()
    }
    expect(node.vms.list()).toMatchObject([{ spec, epoch: 3, state: { kind: 'running', paused: false } }])
    expect(await node.vms.show('a')).toMatchObject({ runState: 'running', pid: expect.any(Number) })
    expect(await node.runDirs()).toContain(node.vms.get('a').runDirName)
  }
  expect(await node.runDirs()).toEqual([node.vms.get('a').runDirName])
  expect(await bench.pids()).toHaveLength(1)
}

test('a VM that runs here, departs, or was switched off here is not taken in, in any epoch', async () => {
  const { spec } = await run()
  const refused = async () => {
    await expect(node.vms.reserve(offer(spec, { epoch: 5 }))).rejects.toMatchObject({
      code: 'VM_ALREADY_HERE',
      outcome: 'refused',
    })
  }
  await refused()
  const departing = await node.vms.depart('a', MIGRATION_ID)
  await refused()
  await departing.doubt(doubtAbout(DESTINATION))
  await refused()
  await departing.stay()
  await node.vms.stopVm('a', { force: true, signal: signal() })
  await refused()
  expect(node.vms.get('a').state).toMatchObject({ kind: 'stopped', doubt: null })
})

test('a VM left in doubt comes back from the peer that it may have gone to, in a later epoch', async () => {
  const { spec, departing } = await leftInDoubt()
  const refusals = [
    [{ source: '12D3KooWSomebodyElse' }, 'VM_ALREADY_HERE'],
    [{ epoch: 1 }, 'EPOCH_STALE'],
  ] as const
  for (const [changes, code] of refusals) {
    await expect(node.vms.reserve(offer(spec, changes))).rejects.toMatchObject({ code })
  }
  const arrival = await node.vms.reserve(offer(spec))
  await load(arrival)
  await arrival.take(3, false, [])
  await arrival.resume()
  // What the earlier move still does must not touch what came back.
  await departing.stay()
  await departing.leave()
  await expectBack(spec)
})

test('a VM with a disk here is never replaced', async () => {
  const { spec } = await leftInDoubt()
  const record = node.vms.get('a')
  await node.vms.stop()
  await node.plant({ ...record, spec: { ...spec, hasDisk: true } })
  await node.stop()
  node = await bench.start()
  await expect(node.vms.reserve(offer(spec))).rejects.toMatchObject({ code: 'VM_ALREADY_HERE' })
})

test('a VM on its way back can not be removed, and is whole when it has come', async () => {
  const { spec } = await leftInDoubt()
  const arrival = await node.vms.reserve(offer(spec))
  await expect(node.vms.remove('a')).rejects.toMatchObject({ code: 'VM_BUSY' })
  await load(arrival)
  await expect(node.vms.remove('a')).rejects.toMatchObject({ code: 'VM_BUSY' })
  await arrival.take(3, false, [])
  await arrival.resume()
  await expect(node.vms.remove('a')).rejects.toMatchObject({ code: 'VM_RUNNING' })
  await expectBack(spec)
})

const orders: [
  when: string,
  order: (leave: () => Promise<void>, take: () => Promise<void>) => Promise<unknown>,
][] = [
  ['before', (leave, take) => leave().then(take)],
  ['just before', (leave, take) => Promise.all([leave(), take()])],
  ['just after', (leave, take) => Promise.all([take(), leave()])],
  ['after', (leave, take) => take().then(leave)],
]

test.each(orders)('the leaving of a VM that ends %s it is back touches nothing of it', async (_, order) => {
  const { spec, departing } = await leftInDoubt()
  const arrival = await node.vms.reserve(offer(spec))
  await load(arrival)
  await order(
    () => departing.leave(),
    () => arrival.take(3, false, []),
  )
  await arrival.resume()
  await expectBack(spec)
})

test('a VM that a person gave to this node does not come back over it', async () => {
  const { spec, departing } = await leftInDoubt()
  const arrival = await node.vms.reserve(offer(spec))
  await load(arrival)
  await departing.stay()
  await expect(node.vms.remove('a')).rejects.toMatchObject({ code: 'VM_BUSY' })
  const journal = node.db.sublevel<string, string>('test-journal', { valueEncoding: 'json' })
  const also = [{ type: 'put', sublevel: journal, key: RETURN_ID, value: 'granted' }] as const
  await expect(arrival.take(3, false, also)).rejects.toMatchObject({ code: 'VM_ALREADY_HERE' })
  expect(await journal.get(RETURN_ID)).toBeUndefined()
  await arrival.discard()
  expect(node.vms.list()).toMatchObject([{ spec, epoch: 1, state: { kind: 'stopped', doubt: null } }])
})

test('an arrival under the id of a move that is a VM of this node shares nothing with it', async () => {
  const { spec } = await run()
  const stranger = { ...spec, id: randomUUID(), name: 'b' }
  const arrival = await node.vms.reserve(offer(stranger, { migrationId: spec.id }))
  await load(arrival)
  await arrival.discard()
  expect(await node.runDirs()).toEqual([spec.id])
  await using console = await node.console('a')
  expect(await console.run('echo $((6 * 7))')).toBe('42')
})

test('what did not come back is taken back without writing over what was decided meanwhile', async () => {
  const { spec, departing } = await leftInDoubt()
  const arrival = await node.vms.reserve(offer(spec))
  await load(arrival)
  type Batch = (writes: unknown[], options: object) => Promise<void>
  const whole = node.db as unknown as { batch: Batch }
  const batch = whole.batch.bind(node.db)
  whole.batch = async (writes, options) => {
    await batch(writes, options)
    throw new Error('the disk failed')
  }
  await expect(arrival.take(3, false, [])).rejects.toThrow('the disk failed')
  // The decision is on disk, and the disk hasn't said so yet.
  const written = Promise.withResolvers<void>()
  const told = Promise.withResolvers<void>()
  whole.batch = async (writes, options) => {
    whole.batch = batch
    await batch(writes, options)
    written.resolve()
    await told.promise
  }
  const staying = departing.stay()
  await written.promise
  const undoing = arrival.untake([], signal())
  told.resolve()
  await Promise.all([staying, undoing])
  await node.stop()
  node = await bench.start()
  expect(node.vms.get('a')).toMatchObject({ epoch: 1, state: { kind: 'stopped', doubt: null } })
})
