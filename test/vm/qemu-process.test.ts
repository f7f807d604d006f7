import { chmod, copyFile, mkdir, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import {
  isRunning,
  preflight,
  type QemuBinary,
  QemuProcess,
  readLogTail,
  readStateFile,
} from '../../src/qemu/index.ts'
import { testGuest } from '../support/guest.ts'
import { GuestConsole } from '../support/guest-console.ts'
import {
  guestLaunch,
  makeTemplate,
  startClone,
  temporaryDirectory,
  testBinary,
} from '../support/qemu-guest.ts'
import { unprivilegedUser } from '../support/unprivileged.ts'

let binary: QemuBinary
let dir: { path: string } & AsyncDisposable

beforeAll(async () => {
  binary = await testBinary()
  dir = await temporaryDirectory()
  await makeTemplate(binary, dir.path)
})

afterAll(async () => {
  await dir?.[Symbol.asyncDispose]()
})

/** Ends it after the test, however that went. */
function ended(qemu: QemuProcess): QemuProcess {
  onTestFinished(() => qemu.quit({ timeoutMs: 0 }))
  return qemu
}

async function clone(name: string): Promise<QemuProcess> {
  return ended(await startClone(binary, dir.path, name))
}

async function inGuest(qemu: QemuProcess, command: string): Promise<string> {
  await using console = await GuestConsole.connect(qemu.consoleSocket)
  return await console.run(command)
}

test('two clones of one template run beside each other, and know that they are two', async () => {
  const [first, second] = [await clone('first'), await clone('second')]
  expect(await inGuest(first, 'echo one > /run/mine; cat /run/mine')).toBe('one')
  expect(await inGuest(second, 'cat /run/mine || echo none')).toContain('none')
  expect(await first.generationId()).not.toBe(await second.generationId())
  await preflight(first)
})

test("the template's state file lists RAM, and holds the ROMs alone", async () => {
  const { machineType, blocks } = readStateFile(await readFile(join(dir.path, 'state')))
  expect(machineType).toBe(binary.defaultMachineType)
  const byName = new Map(blocks.map((block) => [block.name, block]))
  expect(byName.get('ram0')).toMatchObject({ usedBytes: 256 * 1024 * 1024, pages: [] })
  const bios = byName.get('pc.bios')
  expect(bios?.pages.length).toBe(bios!.usedBytes / 4096)
})

test('pause, resume, status', async () => {
  const qemu = await clone('pause')
  expect(await qemu.status()).toBe('running')
  await qemu.pause()
  expect(await qemu.status()).toBe('paused')
  await qemu.resume()
  expect(await inGuest(qemu, 'echo back')).toBe('back')
})

test('reset boots the guest again, from the same kernel', async () => {
  const qemu = await clone('reset')
  await using console = await GuestConsole.connect(qemu.consoleSocket)
  await console.run('echo before > /run/mine')
  await qemu.reset()
  await console.waitFor(/drover-guest ready/)
  expect(await console.run('cat /run/mine || echo fresh')).toContain('fresh')
})

test('a NIC plugged into a clone; a taken slot or port leaves nothing behind', async () => {
  const qemu = await clone('nic')
  await using taken = createServer()
  await new Promise<void>((resolve) => taken.listen(0, resolve))
  const { port } = taken.address() as { port: number }
  const nic = { kind: 'user', slot: 1, mac: '52:54:00:00:00:01', forwards: [] } as const
  const forwards = [{ protocol: 'tcp', hostPort: port, guestPort: 80 }] as const
  await expect(qemu.addNic({ ...nic, forwards })).rejects.toMatchObject({ code: 'QMP_ERROR' })
  await qemu.addNic(nic)
  await expect(qemu.addNic({ ...nic, mac: '52:54:00:00:00:02' })).rejects.toMatchObject({ code: 'QMP_ERROR' })
  expect(
    await inGuest(qemu, 'until cat /sys/class/net/eth0/address 2> /dev/null; do usleep 100000; done'),
  ).toBe(nic.mac)
  await preflight(qemu)
})

describe('a QEMU that does not start', () => {
  test('says why in its own words', async () => {
    const launch = { ...(await guestLaunch(binary, dir.path, 'no-kernel')), kernelPath: '/nowhere/vmlinuz' }
    await expect(QemuProcess.start(binary, launch)).rejects.toMatchObject({
      code: 'QEMU_EXITED',
      message: expect.stringContaining('/nowhere/vmlinuz'),
      details: { exitCode: 1, log: [expect.stringContaining('/nowhere/vmlinuz')] },
    })
  })

  test('is not there', async () => {
    const launch = await guestLaunch(binary, dir.path, 'no-binary')
    await expect(QemuProcess.start({ ...binary, path: '/nowhere/qemu' }, launch)).rejects.toMatchObject({
      code: 'QEMU_NOT_FOUND',
    })
  })

  test('is no program', async () => {
    const launch = await guestLaunch(binary, dir.path, 'no-program')
    await writeFile(join(dir.path, 'text'), 'not to be executed')
    await expect(
      QemuProcess.start({ ...binary, path: join(dir.path, 'text') }, launch),
    ).rejects.toMatchObject({ code: 'QEMU_NOT_USABLE' })
  })

  test('is gone when the start is aborted', async () => {
    const controller = new AbortController()
    const reason = new Error('cancelled')
    const pidFile = join(dir.path, 'pid')
    const path = await wrapper('hung', `echo $$ > '${pidFile}'; exec sleep 60`)
    const starting = QemuProcess.start({ ...binary, path }, await guestLaunch(binary, dir.path, 'aborted'), {
      signal: controller.signal,
    })
    const pid = await expect
      .poll(() => readFile(pidFile, 'utf8').catch(() => ''), { timeout: 5000 })
      .not.toBe('')
      .then(async () => Number(await readFile(pidFile, 'utf8')))
    controller.abort(reason)
    await expect(starting).rejects.toBe(reason)
    expect(() => process.kill(pid, 0)).toThrow(expect.objectContaining({ code: 'ESRCH' }))
  })
})

test('paths with commas, quotes and spaces', async () => {
  await using hostile = await temporaryDirectory('drover-a,share=on "b\' $(c);d\\e')
  await makeTemplate(binary, hostile.path)
  const before = await readFile(join(hostile.path, 'ram'))
  const qemu = await startClone(binary, hostile.path, 'run,server=off')
  try {
    expect(await inGuest(qemu, 'echo yes')).toBe('yes')
    expect((await qemu.saveDeviceState()).length).toBeGreaterThan(10_000)
  } finally {
    await qemu.quit()
  }
  expect((await readFile(join(hostile.path, 'ram'))).equals(before)).toBe(true)
})

describe('a QEMU that hangs', () => {
  test('commands time out, and quit ends it', async () => {
    const qemu = await clone('hangs')
    process.kill(qemu.pid, 'SIGSTOP')
    await expect(qemu.status({ timeoutMs: 100 })).rejects.toMatchObject({ code: 'QMP_TIMEOUT' })
    await qemu.quit({ timeoutMs: 200 })
    expect(await isRunning(qemu.identity)).toBe(false)
  })
})

describe('adopting', () => {
  test('a restarted agent finds its VM again', async () => {
    const started = await clone('adopted')
    const [, , pgrp, session] = await readStat(started.pid)
    expect([pgrp, session]).toEqual([String(started.pid), String(started.pid)])
    await started.disconnect()

    const adopted = await QemuProcess.adopt(started.identity, started.runDir)
    expect(adopted).toMatchObject({ identity: started.identity, pid: started.pid })
    expect(await adopted!.status()).toBe('running')
    expect(await inGuest(adopted!, 'echo still here')).toBe('still here')
    await adopted!.quit()
    await started.exited
    expect(await QemuProcess.adopt(started.identity, started.runDir)).toBeNull()
  })

  test('another process with its pid is not the VM', async () => {
    const { identity, runDir } = await clone('impostor')
    const reused = { ...identity, startTimeTicks: identity.startTimeTicks - 1 }
    expect(await QemuProcess.adopt(reused, runDir)).toBeNull()
    expect(await QemuProcess.adopt(identity, join(dir.path, 'another'))).toBeNull()
    const own = { pid: process.pid, startTimeTicks: Number((await readStat(process.pid))[19]) }
    expect(await isRunning(own)).toBe(true)
    expect(await QemuProcess.adopt(own, runDir)).toBeNull()
  })

  test('one that an agent left frozen runs again', async () => {
    const started = await clone('frozen')
    await started.disconnect()
    process.kill(started.pid, 'SIGSTOP')
    const adopted = await QemuProcess.adopt(started.identity, started.runDir)
    expect(await adopted!.status()).toBe('running')
    await adopted!.disconnect()
  })
})

test.each(['started', 'adopted'])('the death of a QEMU is noticed: %s', async (how) => {
  let qemu = await clone(`killed-${how}`)
  if (how === 'adopted') {
    await qemu.disconnect()
    qemu = (await QemuProcess.adopt(qemu.identity, qemu.runDir))!
  }
  const command = qemu.qmp.waitForEvent('STOP', () => true)
  process.kill(qemu.pid, 'SIGKILL')
  await expect(command).rejects.toMatchObject({ code: 'QMP_CLOSED' })
  await qemu.exited
  await qemu.quit()
})

test('a state is saved of a paused VM only, and a failed save leaves no file', async () => {
  const qemu = await clone('save')
  const path = join(dir.path, 'no-state')
  const notSaved = { code: 'QEMU_STATE_NOT_SAVED' }
  await expect(qemu.saveTemplateState(path)).rejects.toMatchObject(notSaved)
  await qemu.pause()
  await expect(qemu.saveTemplateState(join(dir.path, 'nowhere/state'))).rejects.toMatchObject({
    code: 'ENOENT',
  })
  process.kill(qemu.pid, 'SIGSTOP')
  await expect(
    qemu.saveTemplateState(path, { timeoutMs: 100, signal: AbortSignal.timeout(300) }),
  ).rejects.toThrow()
  await expect(readFile(path)).rejects.toMatchObject({ code: 'ENOENT' })
})

test('a state that is none is refused with the words of QEMU', async () => {
  const bad = join(dir.path, 'bad-state')
  await writeFile(bad, (await readFile(join(dir.path, 'state'))).fill(0xff, 200_000))
  const qemu = ended(await QemuProcess.start(binary, await guestLaunch(binary, dir.path, 'bad')))
  await expect(qemu.loadTemplateState(bad, { timeoutMs: 5000 })).rejects.toMatchObject({
    code: 'INCOMING_FAILED',
    details: { reason: expect.stringMatching(/load|section|migrat/i) },
  })
})

test.each([
  ['a display', '-device VGA', 'vga.vram'],
  [
    'hot-pluggable memory',
    '-object memory-backend-ram,id=m1,size=8M -device ivshmem-plain,memdev=m1,master=on',
    'm1',
  ],
])('a VM with %s is not movable, and the error says why', async (_, options, reason) => {
  const path = await wrapper(`with-${reason}`, `exec '${await which(binary.path)}' "$@" ${options}`)
  const launch = { ...(await guestLaunch(binary, dir.path, `with-${reason}-run`)), incoming: false }
  const qemu = ended(await QemuProcess.start({ ...binary, path }, launch))
  await expect(preflight(qemu)).rejects.toMatchObject({
    code: 'NOT_MOVABLE',
    details: { reasons: expect.arrayContaining([expect.stringContaining(reason)]) },
  })
})

test('QEMU gives up being root, from making a template to moving', async ({ skip }) => {
  await using dir = await temporaryDirectory()
  const { user, reason } = await unprivilegedUser(binary.path, [dir.path])
  skip(user === null, reason)
  // A checkout may lie where only its owner may go.
  const guest = await testGuest()
  const kernelPath = join(dir.path, 'vmlinuz')
  const initrdPath = join(dir.path, 'initrd.img')
  await Promise.all([copyFile(guest.kernel, kernelPath), copyFile(guest.initrd, initrdPath)])
  const asUser = { ...binary, user }
  await makeTemplate(asUser, dir.path, { kernelPath, initrdPath })
  const qemu = ended(await startClone(asUser, dir.path, 'clone', { kernelPath, initrdPath }))
  expect(await inGuest(qemu, 'echo yes')).toBe('yes')
  expect((await qemu.saveDeviceState()).length).toBeGreaterThan(10_000)
})

test('a file that QEMU leaves for the agent is read where it is: no link leads elsewhere', async () => {
  const qemu = await clone('links')
  await using secret = await temporaryDirectory()
  const secretPath = join(secret.path, 'secret')
  await writeFile(secretPath, 'not for peers')
  await rm(join(qemu.runDir, 'qemu.log'))
  await symlink(secretPath, join(qemu.runDir, 'qemu.log'))
  await expect(readLogTail(join(qemu.runDir, 'qemu.log'))).rejects.toMatchObject({ code: 'ELOOP' })
  await symlink(secretPath, join(qemu.runDir, 'device-state'))
  await qemu.pause()
  // QEMU writes through the link, as it might; the agent doesn't read through it.
  await expect(qemu.saveDeviceState()).rejects.toMatchObject({ code: 'ELOOP' })
  expect(await readdir(qemu.runDir)).not.toContain('device-state')
})

/** Fields of /proc/PID/stat from the third on. */
async function readStat(pid: number): Promise<string[]> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8')
  return stat.slice(stat.lastIndexOf(')') + 2).split(' ')
}

/** A program to start instead of QEMU. */
async function wrapper(name: string, script: string): Promise<string> {
  await mkdir(join(dir.path, 'bin'), { recursive: true })
  const path = join(dir.path, 'bin', name)
  await writeFile(path, `#!/bin/sh\n${script}\n`)
  await chmod(path, 0o755)
  return path
}

async function which(path: string): Promise<string> {
  if (path.includes('/')) return path
  for (const directory of (process.env.PATH ?? '').split(':')) {
    const candidate = join(directory, path)
    if ((await readFile(candidate).catch(() => null)) !== null) return candidate
  }
  throw new Error(`${path} is not in PATH`)
}
