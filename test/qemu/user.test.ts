/** The user that QEMU runs as: who may be one, and what it is let at. Files are real, and the user tries. */
import { chmod, chown, mkdir, mkdtemp, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { grantLaunch } from '../../src/qemu/access.ts'
import { openQemuUser, type QemuBinary, type QemuLaunch, type QemuUser } from '../../src/qemu/index.ts'
import { mayUse } from '../../src/qemu/user.ts'

const NAME = 'nobody'
/** A group that is neither root's nor the user's: daemon's, on every Linux. */
const OTHER_GID = 1

let dir: string
let user: QemuUser

beforeEach(async ({ skip }) => {
  skip(process.getuid?.() !== 0, 'only root can start QEMU as another user')
  dir = await mkdtemp(join(tmpdir(), 'drover-user-'))
  await chmod(dir, 0o711)
  user = await openQemuUser(NAME, [join(dir, 'data'), join(dir, 'run')])
})
afterEach(() => rm(dir, { recursive: true, force: true }))

describe('no user for QEMU', () => {
  test.each([
    ['nobody-of-this-name', 'no such user'],
    ['-u', 'no such user'],
    ['', 'no such user'],
    ['root', 'root itself'],
  ])('%j', async (name, reason) => {
    await expect(openQemuUser(name, [])).rejects.toMatchObject({
      code: 'QEMU_USER_NOT_USABLE',
      outcome: 'refused',
      details: { name, reason: expect.stringContaining(reason) },
    })
  })

  test("one that can not get to the agent's directories: the error names where it is stopped", async () => {
    await chmod(dir, 0o700)
    await expect(openQemuUser(NAME, [join(dir, 'data')])).rejects.toMatchObject({
      code: 'QEMU_USER_NOT_USABLE',
      message: expect.stringContaining(`chmod o+x ${dir}`),
    })
  })
})

test('an agent that is not root has no user for QEMU but its own', async () => {
  process.seteuid!(user.uid)
  try {
    await expect(openQemuUser(NAME, [])).rejects.toMatchObject({
      code: 'QEMU_USER_NOT_USABLE',
      message: expect.stringContaining('the agent is not root'),
    })
  } finally {
    process.seteuid!(0)
  }
})

function binary(version: string): QemuBinary {
  const machineTypes = ['pc-q35-7.2']
  const known = { path: 'qemu', version, machineTypes, defaultMachineType: 'pc-q35-7.2' }
  return { ...known, accelerator: 'tcg', acceleratorReason: null }
}

/** A clone's files as an agent that is root has made them. */
async function launchFiles(): Promise<QemuLaunch> {
  const path = (name: string) => join(dir, 'data', name)
  await mkdir(path('templates/id'), { recursive: true, mode: 0o700 })
  await mkdir(path('vms/id'), { recursive: true, mode: 0o700 })
  await mkdir(join(dir, 'run', 'vms'), { recursive: true, mode: 0o700 })
  const files = ['templates/id/ram', 'templates/id/kernel', 'templates/id/disk']
  for (const name of files) await writeFile(path(name), '', { mode: 0o444 })
  await writeFile(path('vms/id/overlay'), '', { mode: 0o600 })
  await writeFile(path('key'), '', { mode: 0o600 })
  return {
    machine: {
      machineType: 'pc-q35-7.2',
      accelerator: 'tcg',
      cpuModel: 'qemu64-v1',
      cpus: 1,
      memoryBytes: 4096,
      spareRootPorts: 0,
      kernelCommandLine: '',
    },
    ram: { path: path('templates/id/ram'), share: false },
    kernelPath: path('templates/id/kernel'),
    initrdPath: null,
    disk: { basePath: path('templates/id/disk'), overlayPath: path('vms/id/overlay') },
    nics: [],
    generationId: 'auto',
    incoming: true,
    runDir: join(dir, 'run', 'vms', 'id'),
  }
}

/** What the user may do with a file, as it finds out by trying. */
async function rights(path: string): Promise<string> {
  const may = async (access: '-r' | '-w' | '-x') => ((await mayUse(user, access, path)) ? access[1]! : '')
  return (await Promise.all([may('-r'), may('-w'), may('-x')])).join('')
}

const modeOf = async (path: string) => ((await stat(path)).mode & 0o777).toString(8)

test.each([
  ['7.2.22', 'rw'],
  ['10.0.2', 'r'],
])("QEMU %s is let at its own files: at the template's RAM as %s", async (version, ofRam) => {
  const launch = await launchFiles()
  expect(await rights(launch.ram.path)).toBe('')
  await grantLaunch(binary(version), launch, user)
  await grantLaunch(binary(version), launch, user)
  expect(await rights(launch.ram.path)).toBe(ofRam)
  expect(await rights(launch.kernelPath)).toBe('r')
  expect(await rights(launch.disk!.basePath)).toBe('r')
  expect(await rights(launch.disk!.overlayPath!)).toBe('rw')
  expect(await rights(join(dir, 'data', 'key'))).toBe('')
  // To pass through, not to look around.
  for (const name of ['data', 'data/templates', 'data/templates/id', 'data/vms/id', 'run', 'run/vms']) {
    expect(await rights(join(dir, name)), name).toBe('x')
    expect(await modeOf(join(dir, name)), name).toBe('710')
  }
})

test('a newer QEMU takes back what the one before it needed', async () => {
  const launch = await launchFiles()
  await grantLaunch(binary('7.2.22'), launch, user)
  expect(await modeOf(launch.ram.path)).toBe('464')
  await grantLaunch(binary('10.0.2'), launch, user)
  expect(await modeOf(launch.ram.path)).toBe('444')
})

test('while a template is made, its QEMU writes RAM and disk', async () => {
  const launch = await launchFiles()
  const { ram, disk } = launch
  for (const path of [ram.path, disk!.basePath]) await chmod(path, 0o600)
  const boot = {
    ...launch,
    ram: { ...ram, share: true },
    disk: { basePath: disk!.basePath, overlayPath: null },
  }
  await grantLaunch(binary('10.0.2'), boot, user)
  expect([await rights(ram.path), await rights(disk!.basePath)]).toEqual(['rw', 'rw'])
})

test('another user takes over from the one before', async () => {
  const launch = await launchFiles()
  await grantLaunch(binary('7.2.22'), launch, { ...user, gid: OTHER_GID })
  await grantLaunch(binary('7.2.22'), launch, user)
  expect([await rights(launch.ram.path), await rights(launch.disk!.overlayPath!)]).toEqual(['rw', 'rw'])
})

test("a group that goes through the socket's directory keeps its rights", async () => {
  const launch = await launchFiles()
  await chown(join(dir, 'run'), 0, OTHER_GID)
  await chmod(join(dir, 'run'), 0o750)
  await grantLaunch(binary('10.0.2'), launch, user)
  expect(await modeOf(join(dir, 'run'))).toBe('751')
  expect((await stat(join(dir, 'run'))).gid).toBe(OTHER_GID)
  expect(await rights(join(dir, 'run'))).toBe('x')
})

test("what is not the agent's is left as it is", async () => {
  const launch = await launchFiles()
  await mkdir(join(dir, 'data', 'vms', 'elsewhere'), { mode: 0o700 })
  const outside = join(dir, 'outside')
  await mkdir(outside, { mode: 0o700 })
  await writeFile(join(outside, 'kernel'), '', { mode: 0o444 })
  await grantLaunch(binary('10.0.2'), { ...launch, kernelPath: join(outside, 'kernel') }, user)
  expect([await modeOf(outside), await modeOf(dir)]).toEqual(['700', '711'])
  expect(await modeOf(join(dir, 'data', 'vms', 'elsewhere'))).toBe('700')
})
