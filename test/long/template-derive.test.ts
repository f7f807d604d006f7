/** Two agents, the real guest: a VM at work becomes a template, as a user makes it one. */
import { execFile } from 'node:child_process'
import { hash } from 'node:crypto'
import { constants, type FileHandle, open, readdir, rm, symlink } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import type { SealVmReply } from '../../src/agent/api-schema.ts'
import { CHUNK_BYTES } from '../../src/domain/page.ts'
import { QmpClient } from '../../src/qemu/index.ts'
import { GuestConsole } from '../support/guest-console.ts'
import { guestPages } from '../support/guest-pages.ts'
import {
  expectCounting,
  inGuest,
  move,
  removeVm,
  runVm,
  showVm,
  TEMPLATE,
  TwoNodes,
  vmNames,
} from '../support/two-nodes.ts'

const MEMORY = '256M'
const DATA_MIB = 16
/** Measured: 13 to 20 ms. A machine that is busy with other tests takes its time. */
const MAX_BLACKOUT_MS = 500
/** Of a clone that has just run a command: some hundred, whatever its template was made of. */
const MAX_FRESH_PRIVATE_PAGES = 2500

let nodes: TwoNodes

beforeAll(async () => {
  nodes = await TwoNodes.start({ memory: MEMORY })
})
afterAll(() => nodes?.[Symbol.asyncDispose]())
afterEach(async () => {
  const agents = nodes === undefined ? [] : [nodes.source, nodes.destination]
  for (const agent of agents) for (const name of await vmNames(agent)) await removeVm(agent, name)
})

function seal(vm: string, name: string): Promise<SealVmReply> {
  return nodes.source.json<SealVmReply>('template', 'create', '--from-vm', vm, name)
}

async function errorOf(...args: string[]): Promise<{ code: string; details: Record<string, unknown> }> {
  const { stdout } = await nodes.source.run([...args, '--json'])
  return (JSON.parse(stdout) as { error: { code: string; details: Record<string, unknown> } }).error
}

function runFrom(template: string, name: string): Promise<unknown> {
  return nodes.source.json('vm', 'run', name, '--template', template)
}

async function counter(name: string): Promise<number> {
  return Number(await inGuest(nodes.source, name, 'workload counter read'))
}

/** The event that told of a template. */
async function created(id: string): Promise<Record<string, unknown> | undefined> {
  // It goes on until it is ended: what is remembered comes at once.
  const { stdout } = await nodes.source.run(['events', '--recent', '--json'], { timeoutMs: 3000 })
  const events = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>)
  return events.find((event) => event.kind === 'template-created' && event.id === id)
}

async function expectVerified(): Promise<void> {
  expect(await nodes.source.json('template', 'verify')).toMatchObject({ ok: true })
}

/** A VM with data that knows its hash, and a counter that runs. */
async function runAtWork(name: string): Promise<void> {
  await runVm(nodes.source, name)
  await inGuest(nodes.source, name, `workload data ${DATA_MIB} one; workload counter start`)
}

test('clones of it go on where the VM was, and so does the VM; they reset, move, and are sealed again', async () => {
  const { source, destination, templateId } = nodes
  await runAtWork('web-1')
  await runVm(source, 'sibling')
  await inGuest(source, 'sibling', 'echo mine > /run/mark')
  await expect.poll(() => counter('web-1'), { timeout: 15_000 }).toBeGreaterThan(3)
  const before = await counter('web-1')

  const sealed = await seal('web-1', 'warm')
  console.info(`blackout ${sealed.blackoutMs.toFixed(1)} ms, ${sealed.changedPages} pages of its own`)
  expect(sealed).toMatchObject({ parent: templateId, names: ['warm'], memoryBytes: 256 * 1024 ** 2 })
  expect(sealed.blackoutMs).toBeGreaterThan(0)
  expect(sealed.blackoutMs).toBeLessThan(MAX_BLACKOUT_MS)
  expect(sealed.changedPages).toBeGreaterThanOrEqual(DATA_MIB * 256)
  await expectVerified()
  expect(await created(sealed.id)).toMatchObject({ name: 'warm', parent: templateId, vm: 'web-1' })

  await expectCounting(source, 'web-1', before)
  await runFrom('warm', 'warm-1')
  const { pages } = await showVm(source, 'warm-1')
  expect(pages!.private).toBeLessThan(MAX_FRESH_PRIVATE_PAGES)
  await expectCounting(source, 'warm-1', before)
  for (const name of ['web-1', 'warm-1']) expect(await inGuest(source, name, 'workload check')).toBe('ok')
  expect(await inGuest(source, 'sibling', 'cat /run/mark')).toBe('mine')
  expect(await showVm(source, 'sibling')).toMatchObject({ state: 'running', template: templateId })

  const again = await seal('warm-1', 'warmer')
  expect(again.parent).toBe(sealed.id)
  expect(again.changedPages).toBeLessThan(MAX_FRESH_PRIVATE_PAGES)
  await runFrom('warmer', 'warmer-1')
  expect(await inGuest(source, 'warmer-1', 'workload check')).toBe('ok')

  // The destination lacks the template: it travels first.
  const moved = await counter('warm-1')
  const report = await move(source, 'warm-1', destination)
  expect(report.templateId).toBe(sealed.id)
  await expectCounting(destination, 'warm-1', moved)
  expect(await inGuest(destination, 'warm-1', 'workload check')).toBe('ok')
  const { consoleSocket } = await showVm(destination, 'warm-1')
  await using console_ = await GuestConsole.connect(consoleSocket!)
  await destination.json('vm', 'reset', 'warm-1')
  await console_.waitFor(/drover-guest ready/, { timeoutMs: 120_000 })
})

test('its memory is all of the VM at the seal; a VM that its user has paused stays so', async () => {
  const { source } = nodes
  await runAtWork('web-1')
  await source.json('vm', 'pause', 'web-1')
  const { id, blackoutMs } = await seal('web-1', 'paused')
  expect(blackoutMs).toBe(0)
  expect(await showVm(source, 'web-1')).toMatchObject({ state: 'paused', runState: 'paused' })
  const { sha256 } = await guestPages(source, 'web-1')
  expect(await hashRam(join(source.dataDir, 'templates', id, 'ram'))).toBe(sha256)
  await source.json('vm', 'resume', 'web-1')
  await expectCounting(source, 'web-1', 0)
})

test('a VM that writes all the time stands still for no longer', async () => {
  const { source } = nodes
  await runAtWork('web-1')
  await inGuest(source, 'web-1', 'workload dirty 8 4; workload hot start')
  const { blackoutMs } = await seal('web-1', 'busy')
  console.info(`blackout ${blackoutMs.toFixed(1)} ms of a VM that writes 8 MiB/s`)
  expect(blackoutMs).toBeLessThan(MAX_BLACKOUT_MS)
  await runFrom('busy', 'busy-1')
  for (const name of ['web-1', 'busy-1'])
    expect(await inGuest(source, name, 'workload dirty stop; workload check')).toBe('ok')
  await expectVerified()
})

test('what can not be sealed is refused, with what to do', async () => {
  const { source, templateId } = nodes
  expect(await errorOf('template', 'create', 'x', '--from-vm', 'nobody')).toMatchObject({
    code: 'VM_NOT_FOUND',
  })
  await runVm(source, 'web-1')
  expect(await errorOf('template', 'create', TEMPLATE, '--from-vm', 'web-1')).toMatchObject({
    code: 'NAME_TAKEN',
  })
  expect(await errorOf('template', 'create', '../x', '--from-vm', 'web-1')).toMatchObject({
    code: 'REQUEST_INVALID',
  })
  await source.json('vm', 'stop', 'web-1', '--force')
  expect(await errorOf('template', 'create', 'x', '--from-vm', 'web-1')).toMatchObject({ code: 'VM_STOPPED' })
  await source.json('vm', 'run', 'web-2', '--template', TEMPLATE, '--nic', 'user')
  expect(await errorOf('template', 'create', 'x', '--from-vm', 'web-2')).toMatchObject({
    code: 'TEMPLATE_NOT_DERIVABLE',
    details: { name: 'web-2', reasons: [expect.stringContaining('NIC')] },
  })
  expect(await showVm(source, 'web-2')).toMatchObject({ state: 'running', runState: 'running' })
  const { templates } = await source.json<{ templates: { id: string; names: string[] }[] }>('template', 'ls')
  expect(templates.filter(({ names }) => names.includes('x'))).toEqual([])
  expect(templates.map(({ id }) => id)).toContain(templateId)
})

test('whatever fails in the blackout, the guest goes on, and nothing is left', async () => {
  const { source } = nodes
  await runAtWork('web-1')
  // QEMU can't write its devices' state there.
  await symlink('/nowhere/at/all', await deviceStatePath('web-1'))
  const before = await counter('web-1')
  expect(await errorOf('template', 'create', 'never', '--from-vm', 'web-1')).toMatchObject({
    code: 'QMP_ERROR',
  })
  await expectCounting(source, 'web-1', before)
  expect(await drafts()).toEqual([])
  await seal('web-1', 'at-last')
})

test('an agent that is killed in the blackout: the next one lets the guest go on, and no half template is left', async () => {
  const { source } = nodes
  await runAtWork('web-1')
  const before = await counter('web-1')
  const path = await deviceStatePath('web-1')
  await promisify(execFile)('mkfifo', [path])
  // QEMU fills the pipe's 64 KiB with its state, and waits for somebody who reads on.
  await using pipe = await open(path, constants.O_RDONLY | constants.O_NONBLOCK)
  const sealing = source.run(['template', 'create', 'never', '--from-vm', 'web-1'])
  await expect.poll(() => readSome(pipe), { timeout: 30_000, interval: 2 }).toBeGreaterThan(0)
  expect(await drafts()).toHaveLength(1)
  await source.stop('SIGKILL')
  expect((await sealing).code).toBe(1)
  while ((await readSome(pipe)) !== 0) await sleep(2)
  await rm(path)
  expect(await runState(dirname(path))).toBe('paused')

  await source.start()
  await expectCounting(source, 'web-1', before)
  expect(await inGuest(source, 'web-1', 'workload check')).toBe('ok')
  expect(await drafts()).toEqual([])
  expect(await errorOf('template', 'show', 'never')).toMatchObject({ code: 'TEMPLATE_NOT_FOUND' })
  await seal('web-1', 'never')
})

async function deviceStatePath(name: string): Promise<string> {
  const { id } = await showVm(nodes.source, name)
  return join(nodes.source.dir, 'run', 'vms', id, 'device-state')
}

/** Of a QEMU that no agent is connected to. */
async function runState(runDir: string): Promise<string> {
  const qmp = await QmpClient.connect(join(runDir, 'qmp.sock'))
  try {
    return (await qmp.execute('query-status')).status
  } finally {
    await qmp.close()
  }
}

async function drafts(): Promise<string[]> {
  const names = await readdir(join(nodes.source.dataDir, 'templates'))
  return names.filter((name) => name.startsWith('draft-'))
}

/** Bytes that were there to read: 0 at the end, or while nobody writes; -1 when there are none yet. */
async function readSome(pipe: FileHandle): Promise<number> {
  try {
    return (await pipe.read(Buffer.alloc(4096), 0, 4096, null)).bytesRead
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return -1
    throw error
  }
}

/** As `guestPages` does. */
async function hashRam(path: string): Promise<string> {
  await using ram = await open(path)
  const hashes: Buffer[] = []
  const bytes = Buffer.alloc(CHUNK_BYTES)
  while ((await ram.read(bytes, 0, CHUNK_BYTES, null)).bytesRead === CHUNK_BYTES)
    hashes.push(hash('sha256', bytes, 'buffer'))
  return hash('sha256', Buffer.concat(hashes), 'hex')
}
