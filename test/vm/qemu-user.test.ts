/** QEMU as an unprivileged user: what it is locked into, what it may reach, and that nothing else has changed. */
import { randomUUID } from 'node:crypto'
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, expect, onTestFinished, test } from 'vitest'
import type { DoctorReply } from '../../src/agent/api-schema.ts'
import { NO_COOL_DOWN } from '../../src/domain/cool-down.ts'
import type { QemuUser } from '../../src/qemu/index.ts'
import { mayUse } from '../../src/qemu/user.ts'
import { loadArrival } from '../support/load-arrival.ts'
import { testBinary } from '../support/qemu-guest.ts'
import { expectCounting, inGuest as guestOf, move, runVm, showVm, TwoNodes } from '../support/two-nodes.ts'
import { UNPRIVILEGED, unprivilegedUser } from '../support/unprivileged.ts'
import { someVmSpec } from '../support/vm-spec.ts'
import { Bench, type TestNode } from './vm-fixture.ts'

const TEST_TIMEOUT_MS = 90_000
const PREPARED_WITHIN_MS = 20_000
const DISK_BYTES = 16 * 1024 ** 2
/** QEMU opens the RAM file of a clone for writing up to 8.1. */
const LAST_THAT_WRITES = 8.1

let unusable: string | null
let version: number
let imageDir: string
let diskPath: string
/** The agent's own, and this file's until it ends. */
const umask = process.umask(0o077)

beforeAll(async () => {
  const binary = await testBinary()
  const found = await unprivilegedUser(binary.path, [])
  unusable = found.user === null ? found.reason : null
  version = Number(/^\d+\.\d+/.exec(binary.version)![0])
  imageDir = await mkdtemp(join(tmpdir(), 'drover-image-'))
  diskPath = join(imageDir, 'disk.raw')
  await writeFile(diskPath, Buffer.alloc(DISK_BYTES))
})
afterAll(async () => {
  process.umask(umask)
  await rm(imageDir, { recursive: true })
})
beforeEach(({ skip }) => skip(unusable !== null, unusable ?? ''))

const signal = () => AbortSignal.timeout(TEST_TIMEOUT_MS)
const run = (node: TestNode, name: string, templateRef = 'base') =>
  node.vms.run({ name, templateRef, nics: [] }, { signal: signal() })
const modeOf = async (path: string) => ((await stat(path)).mode & 0o777).toString(8)

async function inGuest(node: TestNode, name: string, command: string): Promise<string> {
  await using console = await node.console(name)
  return await console.run(command)
}

async function end(node: TestNode, ...names: string[]): Promise<void> {
  for (const name of names) {
    await node.vms.stopVm(name, { force: true, signal: signal() })
    await node.vms.remove(name)
  }
}

async function pidOf(node: TestNode, name: string): Promise<number> {
  return (await node.vms.show(name)).pid!
}

/** Fields of /proc/PID/status. */
async function statusOf(pid: number): Promise<Record<string, string>> {
  const text = await readFile(`/proc/${pid}/status`, 'utf8')
  const lines = text.split('\n').map((line) => line.split(':'))
  return Object.fromEntries(lines.map(([key = '', value = '']) => [key, value.trim()]))
}

/** Real, effective, saved and file system ids are the user's, and there is no way back. */
async function expectLockedIn(pid: number, { uid, gid }: { uid: number; gid: number }): Promise<void> {
  const four = (id: number) => Array(4).fill(id).join('\t')
  expect(await statusOf(pid)).toMatchObject({
    Uid: four(uid),
    Gid: four(gid),
    Groups: '',
    CapPrm: '0000000000000000',
    CapEff: '0000000000000000',
    NoNewPrivs: '1',
    // SECCOMP_MODE_FILTER
    Seccomp: '2',
  })
}

test('a whole life with a disk, from the template on: locked in, and let at its own files alone', async () => {
  const bench = await Bench.create({ diskPath, qemuUser: UNPRIVILEGED })
  onTestFinished(() => bench[Symbol.asyncDispose]())
  const user = bench.binary.user!
  const node = await bench.start()
  const { spec } = await run(node, 'a')
  const pid = await pidOf(node, 'a')
  await expectLockedIn(pid, user)
  const files = node.templates.files(spec.templateId)
  const overlay = join(bench.dataDir, 'vms', spec.id, 'overlay.qcow2')

  const runDir = join(bench.runDir, spec.id)
  expect(await modeOf(runDir)).toBe('700')
  expect(await readdir(runDir)).toEqual(['agent.sock', 'console.sock', 'qemu.log', 'qmp.sock'])
  for (const name of await readdir(runDir)) expect(await modeOf(join(runDir, name)), name).toBe('600')

  // RAM was written by a QEMU of the user's, and is sealed.
  expect((await stat(files.ram)).gid).toBe(user.gid)
  expect(await modeOf(files.ram)).toBe(version <= LAST_THAT_WRITES ? '464' : '444')
  expect(await modeOf(files.disk!)).toBe('444')
  expect(await modeOf(overlay)).toBe('660')
  for (const dir of [bench.dataDir, files.dir, join(bench.dataDir, 'vms', spec.id)]) {
    expect(await modeOf(dir), dir).toBe('710')
    expect(await mayUse(user, '-r', dir), dir).toBe(false)
  }
  for (const path of [join(bench.dir, 'db'), join(bench.dir, 'db', 'CURRENT')]) {
    expect(await mayUse(user, '-r', path), path).toBe(false)
  }

  const written = "printf 'mine\\n' | dd of=/dev/vda conv=fsync,notrunc 2>/dev/null; head -n 1 /dev/vda"
  expect(await inGuest(node, 'a', written)).toBe('mine')
  const { pages } = await node.vms.show('a')
  expect(pages!.private).toBeGreaterThan(0)
  expect(pages!.shared).toBeGreaterThan(pages!.private)

  await node.vms.stopVm('a', { force: true, signal: signal() })
  await node.vms.remove('a')
  expect(await node.runDirs()).toEqual([])
  expect(await bench.pids()).toEqual([])
  await node.stop()
})

test('a node that gets a user later: its VM runs on as it was, its templates serve both, and are derived from', async () => {
  const bench = await Bench.create()
  onTestFinished(() => bench[Symbol.asyncDispose]())
  const before = await bench.start()
  await run(before, 'old')
  await before.stop()
  const user = await bench.runAs(UNPRIVILEGED)
  const node = await bench.start()
  expect((await statusOf(await pidOf(node, 'old'))).Uid).toMatch(/^0\t/)
  await run(node, 'new')
  await expectLockedIn(await pidOf(node, 'new'), user)
  expect(await inGuest(node, 'new', 'echo derived > /run/mine; cat /run/mine')).toBe('derived')
  await node.vms.seal('new', 'derived', { signal: signal() })
  await run(node, 'newest', 'derived')
  await expectLockedIn(await pidOf(node, 'newest'), user)
  expect(await inGuest(node, 'newest', 'cat /run/mine')).toBe('derived')
  expect(await inGuest(node, 'old', 'echo still here')).toBe('still here')
  const { ram } = node.templates.files(node.templates.resolve('base').id)
  expect(await modeOf(ram)).toBe(version <= LAST_THAT_WRITES ? '464' : '444')
  await end(node, 'old', 'new', 'newest')
  await node.stop()
})

test('one that is kept ready is locked in as any other, and becomes the one of a VM that arrives', async () => {
  const bench = await Bench.create({ qemuUser: UNPRIVILEGED })
  onTestFinished(() => bench[Symbol.asyncDispose]())
  const node = await bench.start({ preparedQemus: 1 })
  onTestFinished(() => node.stop())
  await expect.poll(() => node.kinds(), { timeout: PREPARED_WITHIN_MS }).toEqual(['qemu-prepared'])
  const [pid] = await bench.pids()
  await expectLockedIn(pid!, bench.binary.user!)
  const runDir = join(bench.runDir, (await node.runDirs())[0]!)
  expect(await modeOf(runDir)).toBe('700')
  for (const name of await readdir(runDir)) expect(await modeOf(join(runDir, name)), name).toBe('600')

  const { id: templateId, manifest } = node.templates.get(node.templates.resolve('base').id)
  const spec = someVmSpec({ name: 'a', templateId })
  const arrival = await node.vms.reserve({
    ...{ spec, source: 'peer', epoch: 1, machine: manifest.machine, migrationId: randomUUID() },
    ...{ privatePages: 100, templateBytes: 0, coolDown: NO_COOL_DOWN },
  })
  const loaded = await loadArrival(arrival, signal())
  expect(loaded.pid).toBe(pid)
  expect(await loaded.generationId()).toBe(spec.generationId)
  await arrival.discard()
})

test('moves between an agent whose QEMUs are root and one whose are not, there and back', async () => {
  await using nodes = await TwoNodes.start({ memory: '256M', flags: ['--qemu-user', UNPRIVILEGED] })
  const { source, destination } = nodes
  await runVm(source, 'a')
  await guestOf(source, 'a', 'workload counter start')
  const user = await doctorsUser(destination)
  let counted = await expectCounting(source, 'a', 0)
  await move(source, 'a', destination)
  await expectLockedIn((await showVm(destination, 'a')).pid!, user)
  counted = await expectCounting(destination, 'a', counted)
  const runDir = join(destination.dir, 'run', 'vms', (await readdir(join(destination.dir, 'run', 'vms')))[0]!)
  expect(await readdir(runDir)).toEqual(['agent.sock', 'console.sock', 'qemu.log', 'qmp.sock'])
  for (const name of await readdir(runDir)) expect(await modeOf(join(runDir, name)), name).toBe('600')
  for (const path of [destination.socket, join(destination.dataDir, 'db', 'CURRENT')]) {
    expect(await mayUse(user, '-r', path), path).toBe(false)
  }

  // What was derived where QEMU isn't root's is a template everywhere.
  await destination.json('template', 'create', 'warm', '--from-vm', 'a')
  await destination.json('vm', 'run', 'b', '--template', 'warm')
  await move(destination, 'a', source)
  await move(destination, 'b', source)
  expect((await statusOf((await showVm(source, 'a')).pid!)).Uid).toMatch(/^0\t/)
  await expectCounting(source, 'a', counted)
  await expectCounting(source, 'b', counted)
})

/** As the agent's own doctor has it. */
async function doctorsUser(agent: TwoNodes['destination']): Promise<QemuUser> {
  const { checks } = await agent.json<DoctorReply>('doctor')
  const check = checks.find((each) => each.check === 'qemu-user')
  expect(check).toMatchObject({ ok: true, required: true })
  const [, uid, gid] = /uid (\d+), gid (\d+)/.exec(check!.detail)!
  return { name: UNPRIVILEGED, uid: Number(uid), gid: Number(gid), passages: [] }
}
