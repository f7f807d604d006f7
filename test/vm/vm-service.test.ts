import { once } from 'node:events'
import { readdir } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { PAGE_BYTES } from '../../src/domain/page.ts'
import type { RunRequest } from '../../src/vm/index.ts'
import { Bench, type TestNode } from './vm-fixture.ts'

const MIB = 1024 ** 2
const TEST_TIMEOUT_MS = 90_000

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
  await clear()
  await node.stop()
})

function signal(): AbortSignal {
  return AbortSignal.timeout(TEST_TIMEOUT_MS)
}

function run(name: string, request: Partial<RunRequest> = {}) {
  return node.vms.run({ name, templateRef: 'base', nics: [], ...request }, { signal: signal() })
}

/** Ends and removes what a test left. */
async function clear(): Promise<void> {
  for (const { spec } of node.vms.list()) {
    await node.vms.stopVm(spec.id, { force: true, signal: signal() })
    await node.vms.remove(spec.id)
  }
}

/** Nothing of any VM is left on this node. */
async function expectNothingLeft(): Promise<void> {
  expect(await bench.pids()).toEqual([])
  expect(await node.runDirs()).toEqual([])
  expect(await readdir(join(bench.dataDir, 'vms'))).toEqual([])
  expect(await node.db.sublevel('vms').keys().all()).toEqual([])
  expect(node.vms.memory()).toMatchObject({ committedBytes: 0, reservedBytes: 0 })
}

test('clones share their template, and are removed without a trace', async () => {
  const [a, b] = await Promise.all([run('a'), run('b')])
  expect(a.spec.generationId).not.toBe(b.spec.generationId)
  expect(a).toMatchObject({ epoch: 1, state: { kind: 'running', paused: false }, spec: { hasDisk: false } })
  expect(node.vms.namesUsing(a.spec.templateId).toSorted()).toEqual(['a', 'b'])
  await expect(node.templates.remove('base')).rejects.toMatchObject({ code: 'TEMPLATE_IN_USE' })

  await using console = await node.console('a')
  expect(await console.run('echo $((6 * 7))')).toBe('42')
  const { pages, runState, pid } = await node.vms.show('a')
  expect(runState).toBe('running')
  expect(await bench.pids()).toContain(pid)
  expect(pages!.private).toBeLessThan(4000)
  expect(pages!.shared).toBeGreaterThan(pages!.private)
  expect(pages!.private + pages!.shared + pages!.untouched).toBe(pages!.guest)
  const { privateBytes: guestBytes, dirtyBytesPerSecond } = await node.vms.lookAtGuest(a.spec.id)
  expect(dirtyBytesPerSecond).toBe(0)
  expect(guestBytes).toBeGreaterThanOrEqual(pages!.private * PAGE_BYTES)
  // Without QEMU's own heap.
  expect(guestBytes + 10 * MIB).toBeLessThan(node.vms.ownMemoryBytes(a.spec.id))

  // Written in place: nothing of it shows in how much the guest has.
  await console.run(
    '(while :; do dd if=/dev/urandom of=/run/w bs=1M count=8 conv=notrunc; done) >/dev/null 2>&1 &',
  )
  const rate = async () => (await node.vms.lookAtGuest(a.spec.id)).dirtyBytesPerSecond
  await expect.poll(rate, { interval: 1_500 }).toBeGreaterThanOrEqual(2 * MIB)
  expect(await rate()).toBeLessThan(100 * MIB)

  const withTwo = node.vms.memory().committedBytes
  await node.vms.stopVm('b', { force: true, signal: signal() })
  // What goes with the second clone is its own memory: the template stays counted for the first.
  const ownBytes = withTwo - node.vms.memory().committedBytes
  expect(ownBytes).toBeGreaterThan(10 * MIB)
  expect(ownBytes).toBeLessThan(100 * MIB)

  await expect(node.vms.remove('a')).rejects.toMatchObject({ code: 'VM_RUNNING' })
  await clear()
  await expectNothingLeft()
  expect(node.kinds().toSorted()).toEqual([
    ...['vm-removed', 'vm-removed', 'vm-started', 'vm-started', 'vm-stopped', 'vm-stopped'],
  ])
})

test('a NIC is plugged in with its address and its forwarded port', async () => {
  const mac = '52:54:00:ab:cd:ef'
  const forwards = [{ protocol: 'tcp', hostPort: 47_181, guestPort: 80 }] as const
  const { spec } = await run('a', { nics: [{ mac, forwards }] })
  expect(spec.nics).toEqual([{ kind: 'user', slot: 0, mac, forwards }])
  await using console = await node.console('a')
  await console.run(
    `for i in $(seq 100); do ip addr | grep -q 10.0.2 && break; sleep 0.2; done; ip addr | grep -i ${mac}`,
  )
  await expect(run('b', { nics: [{ mac, forwards: [] }] })).rejects.toMatchObject({ code: 'MAC_TAKEN' })
  await expect(run('b', { nics: [{ forwards }] })).rejects.toMatchObject({ code: 'PORT_TAKEN' })
})

test('of two runs of one name one is refused, before it starts anything', async () => {
  const [first, second] = await Promise.allSettled([run('a'), run('a')])
  expect(first.status).toBe('fulfilled')
  expect(second).toMatchObject({ status: 'rejected', reason: { code: 'NAME_TAKEN' } })
  expect(await bench.pids()).toHaveLength(1)
})

const refused: [why: string, name: string, request: Partial<RunRequest>, code: string][] = [
  ['a name that is a path', '../a', {}, 'NAME_INVALID'],
  ['an unknown template', 'a', { templateRef: 'nonesuch' }, 'TEMPLATE_NOT_FOUND'],
  ['more NICs than slots', 'a', { nics: [1, 2, 3].map(() => ({ forwards: [] })) }, 'NO_FREE_SLOT'],
]

test.each(refused)('%s is refused and nothing is left', async (_why, name, request, code) => {
  await expect(run(name, request)).rejects.toMatchObject({ code })
  await expectNothingLeft()
})

test('a port that another program has fails the run late, and nothing is left', async () => {
  const server = createServer().listen(0, '0.0.0.0')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  const forwards = [{ protocol: 'tcp', hostPort: port, guestPort: 80 }] as const
  try {
    await expect(run('a', { nics: [{ forwards }] })).rejects.toMatchObject({ code: 'QMP_ERROR' })
  } finally {
    server.close()
  }
  await expectNothingLeft()
})

test.each([0, 20, 60, 120])('a run aborted after %i ms leaves nothing', async (afterMs) => {
  const abort = new AbortController()
  const running = node.vms.run({ name: 'a', templateRef: 'base', nics: [] }, { signal: abort.signal })
  const outcome = running.then(
    () => 'started' as const,
    (error) => error,
  )
  await sleep(afterMs)
  abort.abort(new Error('enough'))
  // Fast machines have committed by then: a run that succeeded is a whole VM.
  if ((await outcome) === 'started') await clear()
  else expect(await outcome).toMatchObject({ message: 'enough' })
  await expectNothingLeft()
})

test('a stop of the agent ends a run in progress', async () => {
  const running = expect(run('a')).rejects.toMatchObject({ code: 'VM_BUSY' })
  await node.stop()
  await running
  expect(await bench.pids()).toEqual([])
  node = await bench.start()
  await expectNothingLeft()
})

test('memory that is not there is refused with numbers', async () => {
  await node.stop()
  node = await bench.start({ memoryLimitBytes: 300 * MIB })
  await run('a')
  const filling = async () => {
    for (let i = 0; i < 8; i++) await run(`more-${i}`)
  }
  await expect(filling()).rejects.toMatchObject({
    code: 'NOT_ENOUGH_MEMORY',
    outcome: 'refused',
    details: {
      neededBytes: 64 * MIB,
      availableBytes: expect.any(Number),
      missingBytes: expect.any(Number),
      limitBytes: 300 * MIB,
    },
  })
  const { committedBytes, availableBytes, reservedBytes } = node.vms.memory()
  expect(reservedBytes).toBe(0)
  expect(committedBytes + availableBytes).toBe(300 * MIB)
  expect(availableBytes).toBeLessThan(64 * MIB)
})

test('pause, resume and reset do what they say', async () => {
  await run('a')
  await using console = await node.console('a')
  await console.run('echo here > /tmp/mark')
  await node.vms.pause('a', { signal: signal() })
  expect((await node.vms.show('a')).runState).toBe('paused')
  expect(node.vms.get('a').state).toMatchObject({ kind: 'running', paused: true })
  await expect(node.vms.stopVm('a', { force: false, signal: signal() })).rejects.toMatchObject({
    code: 'VM_PAUSED',
  })
  await node.vms.resume('a', { signal: signal() })
  expect(await console.run('cat /tmp/mark')).toBe('here')

  await node.vms.reset('a', { signal: signal() })
  await console.waitFor(/drover-guest ready/, { timeoutMs: TEST_TIMEOUT_MS })
  expect(await console.run('test -e /tmp/mark || echo gone')).toBe('gone')
  expect(node.kinds()).toEqual(['vm-started', 'vm-paused', 'vm-resumed', 'vm-reset'])
})

test('a guest that ignores its power button is stopped by force, even while it is waited for', async () => {
  await run('a')
  await expect(node.vms.stopVm('a', { force: false, signal: signal() })).rejects.toMatchObject({
    code: 'VM_STOP_TIMEOUT',
  })
  const gentle = node.vms.stopVm('a', { force: false, signal: signal() })
  await node.vms.stopVm('a', { force: true, signal: signal() })
  await gentle
  expect(node.vms.get('a').state).toEqual({ kind: 'stopped', reason: 'stopped by its user', doubt: null })
  await expect(node.vms.pause('a', { signal: signal() })).rejects.toMatchObject({ code: 'VM_STOPPED' })
  await node.vms.stopVm('a', { force: true, signal: signal() })
})

test('a guest that powers itself off is stopped, with that reason', async () => {
  await run('a')
  await using console = await node.console('a')
  await console.run('(sleep 0.2; poweroff -f) > /dev/null 2>&1 &')
  await expect
    .poll(() => node.vms.get('a').state, { timeout: 30_000 })
    .toEqual({
      kind: 'stopped',
      reason: 'guest powered off',
      doubt: null,
    })
  expect(node.events.at(-1)).toMatchObject({ kind: 'vm-stopped', name: 'a', reason: 'guest powered off' })
})

test('a QEMU that is killed leaves a stopped VM that can be removed', async () => {
  const { state } = await run('a')
  process.kill(state.kind === 'running' ? state.process.pid : 0, 'SIGKILL')
  await expect.poll(() => node.vms.get('a').state.kind, { timeout: 10_000 }).toBe('stopped')
  expect(node.vms.get('a').state).toMatchObject({ reason: expect.stringContaining('died') })
  await node.vms.remove('a')
  expect(() => node.vms.get('a')).toThrow(expect.objectContaining({ code: 'VM_NOT_FOUND' }))
  await expectNothingLeft()
})
