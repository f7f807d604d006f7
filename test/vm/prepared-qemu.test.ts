/** QEMUs that are kept ready: VMs arrive in them as in any other, and nobody is refused anything for their sake. */
import { readFile, stat } from 'node:fs/promises'
import { afterEach, expect, onTestFinished, test } from 'vitest'
import { NO_COOL_DOWN } from '../../src/domain/cool-down.ts'
import { GuestMemory } from '../../src/memory/index.ts'
import { findGenerationId } from '../../src/qemu/index.ts'
import { ownMemoryBytes } from '../../src/vm/node-memory.ts'
import { endOrphans } from '../../src/vm/orphans.ts'
import { someVmSpec } from '../support/vm-spec.ts'
import { MigrationRig } from './migration-rig.ts'
import { Bench, type TestNode } from './vm-fixture.ts'

const MIB = 1024 ** 2
const READ_PAGES = 256
const PREPARED_WITHIN_MS = 20_000

const never = () => new AbortController().signal
let bench: Bench | undefined
afterEach(async () => {
  await bench?.[Symbol.asyncDispose]()
  bench = undefined
})

const preparedPids = (node: TestNode) =>
  node.events.flatMap((event) => (event.kind === 'qemu-prepared' ? [event.pid] : []))

/** The pid of the `count`th that was made ready on the node. */
async function nthPrepared(node: TestNode, count: number): Promise<number> {
  await expect.poll(() => preparedPids(node).length, { timeout: PREPARED_WITHIN_MS }).toBe(count)
  return preparedPids(node).at(-1)!
}

const isAlive = (pid: number) =>
  stat(`/proc/${pid}`).then(
    () => true,
    () => false,
  )

/** The vmgenid on a QEMU's command line. */
async function commandLineId(pid: number): Promise<string> {
  const commandLine = await readFile(`/proc/${pid}/cmdline`, 'utf8')
  return /"guid":"([0-9a-f-]{36})"/.exec(commandLine)![1]!
}

async function memoryOf(node: TestNode, vm: string): Promise<GuestMemory> {
  const { spec, state } = node.vms.get(vm)
  if (state.kind === 'stopped') throw new Error('a VM that is off has no memory')
  const { memoryBytes } = node.templates.get(spec.templateId).manifest.machine
  const ramPath = node.templates.files(spec.templateId).ram
  return GuestMemory.open({ pid: state.process.pid, ramPath, memoryBytes })
}

/** All of a guest's memory, in pieces. */
async function* guestRam(node: TestNode, vm: string): AsyncGenerator<Buffer> {
  await using memory = await memoryOf(node, vm)
  for (let first = 0; first < memory.pages; first += READ_PAGES) {
    const end = Math.min(first + READ_PAGES, memory.pages)
    const bytes = Buffer.alloc((end - first) * 4096)
    memory.read({ first, end }, bytes)
    yield bytes
  }
}

/** How often a vmgenid stands in the guest's memory, in the guest's byte order. */
async function timesInGuest(node: TestNode, vm: string, id: string): Promise<number> {
  const word = Buffer.from(id.replaceAll('-', ''), 'hex')
  for (const [start, end] of [
    [0, 4],
    [4, 6],
    [6, 8],
  ] as const)
    word.subarray(start, end).reverse()
  let times = 0
  for await (const bytes of guestRam(node, vm)) {
    for (let at = bytes.indexOf(word); at >= 0; at = bytes.indexOf(word, at + 1)) times++
  }
  return times
}

async function ramBytes(node: TestNode, vm: string): Promise<Buffer> {
  return Buffer.concat(await Array.fromAsync(guestRam(node, vm)))
}

test('a VM arrives in the QEMU that was ready for it: memory, NIC and vmgenid are its own, also after a reset', async () => {
  await using rig = await MigrationRig.start({ preparedQemus: 1 })
  const { a, b } = rig
  const run = (name: string, nics: { forwards: [] }[]) =>
    a.node.vms.run({ name, templateRef: 'base', nics }, { signal: never() })
  await run('first', [])
  await run('second', [{ forwards: [] }])
  expect((await rig.move('first', a, 'b')).outcome).toBe('completed')

  // The template came with the first: from then on one is ready for the next.
  const pid = await nthPrepared(b.node, 1)
  const placeholder = await commandLineId(pid)
  {
    await using console = await a.node.console('second')
    await console.run('workload data 8 seed; until [ "$(ip -4 -o addr show eth0)" ]; do usleep 100000; done')
  }
  await a.node.vms.pause('second', { signal: never() })
  const before = await ramBytes(a.node, 'second')
  const { generationId } = a.node.vms.get('second').spec
  expect(await timesInGuest(a.node, 'second', generationId)).toBe(1)

  expect((await rig.move('second', a, 'b')).outcome).toBe('completed')
  expect(b.node.vms.get('second').state).toMatchObject({ process: { pid } })
  expect(before.equals(await ramBytes(b.node, 'second'))).toBe(true)
  await b.node.vms.resume('second', { signal: never() })
  {
    await using console = await b.node.console('second')
    expect(await console.run('workload check')).toBe('ok')
    expect(await console.run('ls /sys/class/net')).toContain('eth0')
    await b.node.vms.reset('second', { signal: never() })
    await console.waitFor(/drover-guest ready/)
  }
  expect(await timesInGuest(b.node, 'second', generationId)).toBe(1)
  expect(await timesInGuest(b.node, 'second', placeholder)).toBe(0)

  // The next one has a QEMU of its own, and a VM that goes on is itself wherever it goes.
  expect(await nthPrepared(b.node, 2)).not.toBe(pid)
  expect((await rig.move('second', b, 'a')).outcome).toBe('completed')
  expect(a.node.vms.get('second').spec.generationId).toBe(generationId)
  expect(await timesInGuest(a.node, 'second', generationId)).toBe(1)
})

async function startNode(options: Parameters<Bench['start']>[0]): Promise<TestNode> {
  bench ??= await Bench.create()
  const node = await bench.start(options)
  onTestFinished(async () => {
    for (const { spec } of node.vms.list()) {
      await node.vms.stopVm(spec.name, { force: true, signal: never() })
      await node.vms.remove(spec.name)
    }
    await node.stop()
  })
  return node
}

test('its memory counts, and is given up before anybody is refused; it is gone when the agent ends', async () => {
  const setUp = await startNode({})
  const { templateId } = (
    await setUp.vms.run({ name: 'x', templateRef: 'base', nics: [] }, { signal: never() })
  ).spec
  await setUp.vms.stopVm('x', { force: true, signal: never() })
  await setUp.vms.remove('x')
  const ramBytes = (await stat(setUp.templates.files(templateId).ram)).blocks * 512

  // Room for one clone, whatever is ready.
  const memoryLimitBytes = ramBytes + 64 * MIB + 4 * MIB
  await setUp.stop()
  const node = await bench!.start({ preparedQemus: 1, memoryLimitBytes })
  onTestFinished(() => node.stop())
  const pid = await nthPrepared(node, 1)
  const ownBytes = ownMemoryBytes(pid)
  expect(ownBytes).toBeGreaterThan(8 * MIB)
  const { committedBytes, reservedBytes } = node.vms.memory()
  expect(Math.abs(committedBytes - ownBytes)).toBeLessThan(MIB)
  expect(reservedBytes).toBe(0)
  expect(memoryLimitBytes - ownBytes).toBeLessThan(ramBytes + 64 * MIB)

  await node.vms.run({ name: 'y', templateRef: 'base', nics: [] }, { signal: never() })
  await expect.poll(() => isAlive(pid)).toBe(false)
  // There is no room for a second clone, so none is kept ready for one.
  await new Promise((resolve) => setTimeout(resolve, 1500))
  expect(preparedPids(node)).toEqual([pid])
  await node.vms.stopVm('y', { force: true, signal: never() })
  await node.vms.remove('y')

  const second = await nthPrepared(node, 2)
  const { machine } = node.templates.get(templateId).manifest
  const spec = someVmSpec({ name: 'z', templateId })
  const offer = {
    spec,
    source: 'peer',
    epoch: 1,
    machine,
    privatePages: 2000,
    templateBytes: 0,
    coolDown: NO_COOL_DOWN,
    migrationId: crypto.randomUUID(),
  }
  await expect(node.vms.reserve(offer)).rejects.toMatchObject({ code: 'NOT_ENOUGH_MEMORY' })
  await expect.poll(() => isAlive(second)).toBe(false)
  expect(node.vms.memory()).toMatchObject({ committedBytes: 0, reservedBytes: 0 })

  const third = await nthPrepared(node, 3)
  const arrival = await node.vms.reserve({ ...offer, privatePages: 100 })
  const { process: taken } = await arrival.launch({ signal: never() })
  expect(taken.pid).toBe(third)
  await arrival.discard()
  expect(await isAlive(third)).toBe(false)
  expect(node.vms.memory()).toMatchObject({ committedBytes: 0, reservedBytes: 0 })

  const fourth = await nthPrepared(node, 4)
  await node.vms.stop()
  expect(await isAlive(fourth)).toBe(false)
  expect(await node.runDirs()).toEqual([])
})

test('where memory is short all are given up, and no other is started', async () => {
  const node = await startNode({ preparedQemus: 2 })
  await nthPrepared(node, 2)
  expect(node.vms.giveUpPrepared()).toBe(true)
  for (const pid of preparedPids(node)) await expect.poll(() => isAlive(pid)).toBe(false)
  expect(node.vms.giveUpPrepared()).toBe(false)
  await new Promise((resolve) => setTimeout(resolve, 1500))
  expect(preparedPids(node)).toHaveLength(2)
})

test('one that an agent left behind is ended by the next; one that dies is made anew', async () => {
  const node = await startNode({ preparedQemus: 2 })
  await nthPrepared(node, 2)
  const pids = await bench!.pids()
  expect(pids.toSorted()).toEqual(preparedPids(node).toSorted())
  // A vmgenid that isn't where it should be is written nowhere.
  const strange = findGenerationId(pids[0]!, crypto.randomUUID())
  await expect(strange).rejects.toMatchObject({
    code: 'GENERATION_ID_NOT_FOUND',
    details: { device: 0, firmware: 0 },
  })
  // As the next agent does at its start.
  await endOrphans(bench!.runDir, new Set())
  for (const pid of pids) await expect.poll(() => isAlive(pid)).toBe(false)
  await nthPrepared(node, 4)
})
