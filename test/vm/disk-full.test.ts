/** A disk that is full to the last byte: no VM is lost, none stays paused for it, and all goes on when there is space. */
import { existsSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { openDatabase } from '../../src/agent/database.ts'
import { errorBody } from '../../src/domain/errors.ts'
import { doubtAbout } from '../support/doubt.ts'
import { AgentUnderTest } from '../support/drover.ts'
import { testGuest } from '../support/guest.ts'
import { SmallDisk } from '../support/small-disk.ts'
import { Bench, type TestNode } from './vm-fixture.ts'

const PEER = '12D3KooWDestination'
const MOVE = '6b1e0f0e-6d0e-4d2c-9c39-0d9a6a1f3c11'
/** The guest's RAM is promised in full, and the reserve and the margin beside it. */
const AGENT_DISK_MIB = 256
const RECORDS_DISK_MIB = 64

let noDisk: string | null = null
let bench: Bench
let disk: SmallDisk
let node: TestNode
beforeAll(async () => {
  const mounted = await SmallDisk.mount(RECORDS_DISK_MIB)
  if (typeof mounted === 'string') {
    noDisk = mounted
    return
  }
  disk = mounted
  bench = await Bench.create()
  await startNode()
  await reserveMade(disk.path)
})
afterAll(async () => {
  if (noDisk !== null) return
  await node.stop()
  await bench[Symbol.asyncDispose]()
  await disk[Symbol.asyncDispose]()
})

/** Templates are on the machine's disk, records on the small one. */
async function startNode(): Promise<void> {
  // Index entries of templates are in the bench's database: here the template has no name.
  node = await bench.start({ db: await openDatabase(disk.path) })
}

function run(name: string): Promise<unknown> {
  const [template] = node.templates.list()
  return node.vms.run({ name, templateRef: template!.id, nics: [] }, { signal: AbortSignal.timeout(30_000) })
}

async function reserveMade(path: string): Promise<void> {
  while (!existsSync(join(path, 'reserve'))) await sleep(20)
}

/** Nothing is left, no reserve either, nor the rest of the log's last block. */
async function exhaust(): Promise<void> {
  const write = () => node.db.batch([{ type: 'put', key: 'last', value: 'x'.repeat(4096) }], { sync: true })
  do await disk.fill()
  while ((await codeOf(write())) !== 'DISK_FULL')
}

async function codeOf(action: Promise<unknown>): Promise<string> {
  return action.then(
    () => 'done',
    (error) => errorBody(error).code,
  )
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await sleep(50)
}

async function guestStatus(name: string): Promise<string> {
  return node.vms.movable(name).process.status()
}

const signal = AbortSignal.timeout(170_000)

test('what is not written is not done, and a guest stays where its record says', async ({ skip }) => {
  if (noDisk !== null) return skip(noDisk)
  await run('a')
  await exhaust()
  expect(await codeOf(node.vms.pause('a', { signal }))).toBe('DISK_FULL')
  expect(await guestStatus('a')).toBe('running')
  expect(await codeOf(run('b'))).toBe('DISK_FULL')
  expect(await codeOf(node.vms.depart('a', MOVE))).toBe('DISK_FULL')
  expect(await bench.pids()).toHaveLength(1)
  expect(node.vms.list()).toMatchObject([{ spec: { name: 'a' }, state: { kind: 'running', paused: false } }])

  await disk.free()
  await node.vms.pause('a', { signal })
  await node.vms.resume('a', { signal })
  await node.stop()
  await startNode()
  expect(node.vms.list()).toMatchObject([{ spec: { name: 'a' }, state: { kind: 'running', paused: false } }])
})

test('a move that fails leaves the guest running, and the record follows', async ({ skip }) => {
  if (noDisk !== null) return skip(noDisk)
  const vm = await node.vms.depart('a', MOVE)
  await vm.doubt(doubtAbout(PEER))
  await vm.process.pause()
  await exhaust()
  await vm.stay()
  expect(await guestStatus('a')).toBe('running')
  expect(node.events).toContainEqual(
    expect.objectContaining({ kind: 'vm-record-not-written', code: 'DISK_FULL' }),
  )
  await disk.free()
  await until(() => node.kinds().includes('vm-record-written'))
  expect(await node.db.sublevel('vms', { valueEncoding: 'json' }).values().all()).toMatchObject([
    { state: { kind: 'running' } },
  ])
})

test('a VM that another node owns stays paused until its record is gone, then it leaves', async ({
  skip,
}) => {
  if (noDisk !== null) return skip(noDisk)
  const vm = await node.vms.depart('a', MOVE)
  await vm.doubt(doubtAbout(PEER))
  await vm.process.pause()
  await exhaust()
  expect(await codeOf(vm.leave())).toBe('DISK_FULL')
  expect(await codeOf(vm.stay())).toBe('VM_NOT_DEPARTING')
  expect(await vm.process.status()).toBe('paused')
  await disk.free()
  await until(() => node.kinds().includes('vm-left'))
  expect(node.vms.list()).toEqual([])
  expect(await bench.pids()).toEqual([])
  expect(await node.db.sublevel('vms').keys().all()).toEqual([])
})

test('a VM is switched off on a full disk, and that is written later', async ({ skip }) => {
  if (noDisk !== null) return skip(noDisk)
  await run('c')
  await exhaust()
  await node.vms.stopVm('c', { force: true, signal })
  expect(node.vms.get('c').state).toMatchObject({ kind: 'stopped', reason: 'stopped by its user' })
  expect(await bench.pids()).toEqual([])
  await disk.free()
  await until(() => node.kinds().at(-1) === 'vm-record-written')
  await node.stop()
  await startNode()
  expect(node.vms.get('c').state).toMatchObject({ kind: 'stopped', reason: 'stopped by its user' })
  await node.vms.remove('c')
})

test('an agent on a full disk keeps its VMs, refuses what needs space, starts again and goes on', async ({
  skip,
}) => {
  const mounted = await SmallDisk.mount(AGENT_DISK_MIB)
  if (typeof mounted === 'string') return skip(mounted)
  await using full = mounted
  const { kernel, initrd, append, qemu } = await testGuest()
  await using agent = await AgentUnderTest.start({
    name: 'edge-1',
    flags: ['--accel', 'tcg', '--qemu', qemu],
    dataDir: full.path,
  })
  const files = ['--kernel', kernel, '--initrd', initrd, '--append', append]
  const create = (name: string) =>
    ['template', 'create', name, ...files, '--memory', '128M', '--ready', 'drover-guest ready'] as const
  const stateOf = async (name: string) => (await agent.json<{ state: string }>('vm', 'show', name)).state
  const refusal = async (...args: string[]) => {
    const { code, stdout } = await agent.run([...args, '--json'])
    return { exit: code, code: (JSON.parse(stdout) as { error: { code: string } }).error.code }
  }
  await agent.json(...create('small'))
  await agent.json('vm', 'run', 'a', '--template', 'small')
  await reserveMade(full.path)

  await full.fill()
  await agent.json('vm', 'pause', 'a')
  expect(await refusal('vm', 'run', 'b', '--template', 'small')).toEqual({ exit: 1, code: 'DISK_FULL' })
  expect(await refusal(...create('other'))).toEqual({ exit: 1, code: 'DISK_FULL' })
  await agent.stop('SIGKILL')
  await agent.start()
  expect(await stateOf('a')).toBe('paused')
  await agent.json('vm', 'stop', 'a', '--force')
  await agent.json('vm', 'rm', 'a')

  await full.free()
  await agent.json('vm', 'run', 'b', '--template', 'small')
  const { vms } = await agent.json<{ vms: { name: string; state: string }[] }>('vm', 'ls')
  expect(vms).toMatchObject([{ name: 'b', state: 'running' }])
  expect((await readdir(join(full.path, 'templates'))).filter((name) => !name.startsWith('bafkrei'))).toEqual(
    [],
  )
})
