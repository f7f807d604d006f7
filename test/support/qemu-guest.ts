/** The test guest on a QEMU of its own, without any other part of drover: templates and launches by hand. */
import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { probeQemu, type QemuBinary, type QemuLaunch, QemuProcess } from '../../src/qemu/index.ts'
import { testGuest } from './guest.ts'
import { GuestConsole } from './guest-console.ts'

const MEMORY_BYTES = 256 * 1024 * 1024

/** The QEMU that tests use: `DROVER_TEST_QEMU`, or the one in PATH. TCG: it runs on every machine. */
export async function testBinary(): Promise<QemuBinary> {
  return probeQemu((await testGuest()).qemu, { accelerator: 'tcg' })
}

/** A directory that is gone when the scope ends. */
export async function temporaryDirectory(prefix = 'drover-'): Promise<{ path: string } & AsyncDisposable> {
  const path = await mkdtemp(join(tmpdir(), prefix))
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) }
}

/** A launch of the test guest with its RAM in `dir`/ram; run directories lie in `dir` too. */
export async function guestLaunch(binary: QemuBinary, dir: string, runDir: string): Promise<QemuLaunch> {
  const guest = await testGuest()
  return {
    machine: {
      machineType: binary.defaultMachineType,
      accelerator: binary.accelerator,
      cpuModel: 'qemu64-v1',
      cpus: 1,
      memoryBytes: MEMORY_BYTES,
      spareRootPorts: 2,
      kernelCommandLine: guest.append,
    },
    ram: { path: join(dir, 'ram'), share: false },
    kernelPath: guest.kernel,
    initrdPath: guest.initrd,
    disk: null,
    nics: [],
    generationId: 'auto',
    incoming: true,
    runDir: join(dir, runDir),
  }
}

/** Boots the guest into `dir`/ram and saves its state as `dir`/state. */
export async function makeTemplate(
  binary: QemuBinary,
  dir: string,
  changes: Partial<QemuLaunch> = {},
): Promise<void> {
  const launch = await guestLaunch(binary, dir, 'template')
  await writeFile(launch.ram.path, '')
  await truncate(launch.ram.path, MEMORY_BYTES)
  const qemu = await QemuProcess.start(binary, {
    ...launch,
    ram: { path: launch.ram.path, share: true },
    incoming: false,
    ...changes,
  })
  try {
    await using console = await GuestConsole.connect(qemu.consoleSocket)
    await qemu.resume()
    await console.waitFor(/drover-guest ready/)
    await qemu.pause()
    await qemu.saveTemplateState(join(dir, 'state'))
  } finally {
    await qemu.quit()
  }
}

/** A clone of `dir`'s template, running. */
export async function startClone(
  binary: QemuBinary,
  dir: string,
  runDir: string,
  changes: Partial<QemuLaunch> = {},
): Promise<QemuProcess> {
  const qemu = await QemuProcess.start(binary, { ...(await guestLaunch(binary, dir, runDir)), ...changes })
  try {
    await qemu.loadTemplateState(join(dir, 'state'))
    await qemu.resume()
    return qemu
  } catch (error) {
    await qemu.quit({ timeoutMs: 0 })
    throw error
  }
}
