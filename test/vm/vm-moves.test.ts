import { randomUUID } from 'node:crypto'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { NO_COOL_DOWN } from '../../src/domain/cool-down.ts'
import type { Accelerator, MachineSpec } from '../../src/domain/template.ts'
import type { VmSpec } from '../../src/domain/vm.ts'
import type { ArrivingVm, ReserveRequest } from '../../src/vm/index.ts'
import { doubtAbout } from '../support/doubt.ts'
import { loadArrival } from '../support/load-arrival.ts'
import { someVmSpec } from '../support/vm-spec.ts'
import { Bench, holdControl, type TestNode } from './vm-fixture.ts'

const MIB = 1024 ** 2
const TEST_TIMEOUT_MS = 90_000
const MIGRATION_ID = '7f8d6c1e-25a4-4a39-9d7e-0b6d5a3c1f20'
const SOURCE = '12D3KooWSource'

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
  for (const { spec } of node.vms.list()) {
    await node.vms.stopVm(spec.id, { force: true, signal: signal() })
    await node.vms.remove(spec.id)
  }
  await node.stop()
})

function signal(): AbortSignal {
  return AbortSignal.timeout(TEST_TIMEOUT_MS)
}

function run(name: string) {
  return node.vms.run({ name, templateRef: 'base', nics: [] }, { signal: signal() })
}

function offer({
  spec,
  ...request
}: { spec?: Partial<VmSpec> } & Partial<Omit<ReserveRequest, 'spec'>> = {}): ReserveRequest {
  const { id: templateId, manifest } = node.templates.resolve('base')
  const nics: VmSpec['nics'] = [{ kind: 'user', slot: 1, mac: '52:54:00:01:02:03', forwards: [] }]
  const offered = someVmSpec({ name: 'a', templateId, nics, ...spec })
  const { machine } = manifest
  return {
    source: SOURCE,
    spec: offered,
    epoch: 1,
    machine,
    privatePages: 100,
    templateBytes: 0,
    migrationId: MIGRATION_ID,
    coolDown: NO_COOL_DOWN,
    ...request,
  }
}

/** An offer of a VM whose template is of another machine than ours. */
function offerOn(difference: Partial<MachineSpec>): ReserveRequest {
  const { machine } = node.templates.resolve('base').manifest
  return offer({ machine: { ...machine, ...difference } })
}

function otherAccelerator(): Accelerator {
  return bench.binary.accelerator === 'tcg' ? 'kvm' : 'tcg'
}

const load = (arrival: ArrivingVm) => loadArrival(arrival, signal())

test('a VM that departs can not be commanded, and stays when nothing came of it', async () => {
  const record = await run('a')
  const departing = await node.vms.depart('a', MIGRATION_ID)
  expect(departing.record.state).toMatchObject({ kind: 'departing', migrationId: MIGRATION_ID })
  expect(departing.machine).toEqual(node.templates.resolve('base').manifest.machine)
  for (const command of [
    node.vms.pause('a', { signal: signal() }),
    node.vms.stopVm('a', { force: true, signal: signal() }),
    node.vms.remove('a'),
    node.vms.depart('a', randomUUID()),
  ]) {
    await expect(command).rejects.toMatchObject({ code: 'VM_BUSY' })
  }
  await departing.process.pause()
  await departing.stay()
  expect(node.vms.get('a')).toEqual(record)
  expect((await node.vms.show('a')).runState).toBe('running')
  await expect(departing.doubt(doubtAbout('somewhere'))).rejects.toMatchObject({ code: 'VM_NOT_DEPARTING' })
})

test('a VM paused by its user stays paused when its move fails', async () => {
  await run('a')
  await node.vms.pause('a', { signal: signal() })
  const departing = await node.vms.depart('a', MIGRATION_ID)
  expect(departing.paused).toBe(true)
  await departing.stay()
  expect((await node.vms.show('a')).runState).toBe('paused')
})

test('a VM whose control connection broke stays, and its guest goes on', async () => {
  const { state } = await run('a')
  const departing = await node.vms.depart('a', MIGRATION_ID)
  const { process: broken } = departing
  await broken.pause()
  await broken.qmp.close()
  await departing.stay()
  expect(node.vms.get('a').state).toEqual(state)
  expect((await node.vms.show('a')).runState).toBe('running')
  expect(node.kinds()).toEqual(['vm-started', 'vm-departing', 'vm-stayed'])
  process.kill(broken.pid, 'SIGKILL')
  await expect.poll(() => node.vms.get('a').state.kind, { timeout: 10_000 }).toBe('stopped')
  expect(node.kinds().filter((kind) => kind === 'vm-stopped')).toHaveLength(1)
})

test("a VM that can not be resumed is said to be unreachable, is this node's, and its end is noticed", async () => {
  const { state } = await run('a')
  const departing = await node.vms.depart('a', MIGRATION_ID)
  await departing.process.pause()
  await departing.doubt(doubtAbout(SOURCE))
  await using _held = await holdControl(departing.process)
  await expect(departing.stay()).rejects.toMatchObject({ code: 'VM_UNREACHABLE' })
  expect(node.kinds()).toEqual(['vm-started', 'vm-departing', 'vm-stayed', 'vm-unreachable'])
  expect(node.vms.get('a').state).toEqual(state)
  process.kill(departing.process.pid, 'SIGKILL')
  await expect.poll(() => node.vms.get('a').state.kind, { timeout: 10_000 }).toBe('stopped')
})

test('a VM whose QEMU died while it departed stays, stopped', async () => {
  await run('a')
  const departing = await node.vms.depart('a', MIGRATION_ID)
  process.kill(departing.process.pid, 'SIGKILL')
  await departing.stay()
  await expect.poll(() => node.vms.get('a').state.kind, { timeout: 10_000 }).toBe('stopped')
  expect(node.vms.get('a').state).toMatchObject({ doubt: null, reason: expect.stringContaining('died') })
  await expect(departing.leave()).rejects.toMatchObject({ code: 'VM_NOT_DEPARTING' })
  expect(node.vms.list()).toHaveLength(1)
})

test('a VM that left is gone without a trace', async () => {
  await run('a')
  const departing = await node.vms.depart('a', MIGRATION_ID)
  await departing.process.pause()
  await departing.doubt(doubtAbout('somewhere'))
  await departing.leave()
  expect(node.vms.list()).toEqual([])
  expect(await bench.pids()).toEqual([])
  expect(await node.runDirs()).toEqual([])
  expect(await node.db.sublevel('vms').keys().all()).toEqual([])
  expect(node.kinds()).toEqual(['vm-started', 'vm-departing', 'vm-left'])
})

test('a stopped VM does not depart', async () => {
  await run('a')
  await node.vms.stopVm('a', { force: true, signal: signal() })
  await expect(node.vms.depart('a', MIGRATION_ID)).rejects.toMatchObject({ code: 'VM_STOPPED' })
})

test('a VM arrives: taken in one write with the journal, and found again by the next agent', async () => {
  const request = offer()
  const arrival = await node.vms.reserve(request)
  const process = await load(arrival)
  expect(await process.generationId()).toBe(request.spec.generationId)
  expect(node.vms.list()).toEqual([])
  expect(node.vms.namesUsing(request.spec.templateId)).toEqual(['a'])

  const journal = node.db.sublevel<string, string>('test-journal', { valueEncoding: 'json' })
  await arrival.take(2, false, [{ type: 'put', sublevel: journal, key: MIGRATION_ID, value: 'granted' }])
  expect(await journal.get(MIGRATION_ID)).toBe('granted')
  expect(node.vms.get('a')).toMatchObject({
    spec: request.spec,
    epoch: 2,
    state: { kind: 'running', paused: false },
  })
  expect(node.vms.memory().reservedBytes).toBe(0)
  expect(await node.runDirs()).toEqual([node.vms.get('a').runDirName])
  await arrival.discard()
  expect(await process.status()).toBe('paused')

  // The agent ends between the journal and the guest's first step: the next one takes that step.
  await node.stop()
  node = await bench.start()
  expect((await node.vms.show('a')).runState).toBe('running')
  await using console = await node.console('a')
  expect(await console.run('echo $((6 * 7))')).toBe('42')
})

test('a VM that arrived goes on, even when its control connection has broken', async () => {
  for (const [name, isBroken] of [
    ['a', false],
    ['b', true],
  ] as const) {
    const arrival = await node.vms.reserve(offer({ spec: { name, nics: [] } }))
    const process = await load(arrival)
    await arrival.take(2, false, [])
    if (isBroken) await process.qmp.close()
    await arrival.resume()
    expect((await node.vms.show(name)).runState).toBe('running')
  }
  expect(node.kinds()).toEqual(['vm-arrived', 'vm-arrived'])
})

test('a VM that arrived paused by its user stays paused', async () => {
  const arrival = await node.vms.reserve(offer())
  await load(arrival)
  await arrival.take(2, true, [])
  await arrival.resume()
  expect((await node.vms.show('a')).runState).toBe('paused')
})

test('a VM that arrived and can not go on is told of, and its user may resume it once QEMU answers', async () => {
  const arrival = await node.vms.reserve(offer())
  const process = await load(arrival)
  await arrival.take(2, false, [])
  {
    await using _held = await holdControl(process)
    await expect(arrival.resume()).rejects.toMatchObject({ code: 'VM_UNREACHABLE' })
  }
  expect(node.kinds()).toEqual(['vm-arrived', 'vm-unreachable'])
  await node.vms.resume('a', { signal: signal() })
  expect((await node.vms.show('a')).runState).toBe('running')
})

test('a VM that arrived and lost its QEMU before it went on is stopped', async () => {
  const arrival = await node.vms.reserve(offer())
  const { pid } = await load(arrival)
  await arrival.take(2, false, [])
  process.kill(pid, 'SIGKILL')
  await expect(arrival.resume()).rejects.toMatchObject({ code: 'VM_STOPPED' })
  await expect.poll(() => node.vms.get('a').state.kind, { timeout: 10_000 }).toBe('stopped')
})

test('an arrival that is given up frees everything it held', async () => {
  const arrival = await node.vms.reserve(offer({ privatePages: 25_600 }))
  expect(node.vms.memory().reservedBytes).toBe(164 * MIB)
  await expect(node.vms.reserve(offer())).rejects.toMatchObject({ code: 'NAME_TAKEN' })
  await expect(run('a')).rejects.toMatchObject({ code: 'NAME_TAKEN' })
  await load(arrival)
  await Promise.all([arrival.discard(), arrival.discard()])
  await expect(arrival.take(2, false, [])).rejects.toMatchObject({ code: 'VM_STOPPED' })
  expect(await bench.pids()).toEqual([])
  expect(await node.runDirs()).toEqual([])
  expect(node.vms.memory()).toMatchObject({ reservedBytes: 0, committedBytes: 0 })
  expect(await node.db.sublevel('vms').keys().all()).toEqual([])
})

test('a node that an arrival fills to the last byte has room for it until it is taken: nothing counts twice', async () => {
  const { committedBytes: templateBytes } = await templateInUse()
  await node.stop()
  node = await bench.start({ memoryLimitBytes: templateBytes + 164 * MIB })
  const arrival = await node.vms.reserve(offer({ privatePages: 25_600 }))
  expect(node.vms.memory().availableBytes).toBe(0)
  arrival.requireRoom()
  await load(arrival)
  arrival.requireRoom()
  const { committedBytes, reservedBytes } = node.vms.memory()
  expect(committedBytes - templateBytes).toBeGreaterThan(10 * MIB)
  expect(committedBytes + reservedBytes).toBe(templateBytes + 164 * MIB)
  await arrival.discard()
})

/** What the node counts for its template alone. */
async function templateInUse() {
  const arrival = await node.vms.reserve(offer())
  const memory = node.vms.memory()
  await arrival.discard()
  return memory
}

test('an arrival given up while its QEMU starts leaves none', async () => {
  const arrival = await node.vms.reserve(offer())
  const launching = expect(arrival.launch({ signal: signal() })).rejects.toMatchObject({ code: 'VM_STOPPED' })
  await arrival.discard()
  await launching
  expect(await bench.pids()).toEqual([])
})

test('an arrival whose QEMU died is not taken, and nothing is written', async () => {
  const arrival = await node.vms.reserve(offer())
  const { pid, exited } = await load(arrival)
  process.kill(pid, 'SIGKILL')
  await exited
  await expect(arrival.take(2, false, [])).rejects.toMatchObject({ code: 'VM_STOPPED' })
  expect(await node.db.sublevel('vms').keys().all()).toEqual([])
  await arrival.discard()
})

test('an agent that ends gives its arrivals up', async () => {
  await load(await node.vms.reserve(offer()))
  await node.stop()
  expect(await bench.pids()).toEqual([])
  node = await bench.start()
  expect(node.vms.list()).toEqual([])
})

const refused: [why: string, request: () => ReserveRequest, code: string][] = [
  ['a VM with a disk', () => offer({ spec: { hasDisk: true } }), 'VM_DISK_NOT_MOVABLE'],
  ['more memory than there is', () => offer({ privatePages: 0xffff_ffff }), 'NOT_ENOUGH_MEMORY'],
  [
    'a template larger than the memory',
    () => offer({ spec: { templateId: 'bafkother' }, templateBytes: 2 ** 45 }),
    'NOT_ENOUGH_MEMORY',
  ],
  ['another accelerator', () => offerOn({ accelerator: otherAccelerator() }), 'TEMPLATE_NOT_RUNNABLE'],
  [
    'a machine type that QEMU does not have',
    () => offerOn({ machineType: 'pc-q35-99.0' }),
    'TEMPLATE_NOT_RUNNABLE',
  ],
  [
    'a NIC in a slot that the machine does not have',
    () => offer({ spec: { nics: [{ kind: 'user', slot: 9, mac: '52:54:00:01:02:03', forwards: [] }] } }),
    'NO_FREE_SLOT',
  ],
]

test.each(refused)('%s is refused, and nothing is reserved', async (_why, request, code) => {
  await expect(node.vms.reserve(request())).rejects.toMatchObject({ code, outcome: 'refused' })
  expect(node.vms.memory().reservedBytes).toBe(0)
})

test('an arrival without its template can not be launched', async () => {
  const arrival = await node.vms.reserve(
    offer({ spec: { templateId: 'bafkother' }, machine: null, templateBytes: 4096 }),
  )
  await expect(arrival.launch({ signal: signal() })).rejects.toMatchObject({ code: 'TEMPLATE_NOT_FOUND' })
  await arrival.discard()
})
