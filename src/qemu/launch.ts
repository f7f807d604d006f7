import { isAbsolute } from 'node:path'
import type { MachineSpec } from '../domain/template.ts'
import type { NicSpec } from '../domain/vm.ts'
import { QemuError } from './errors.ts'
import { nicDevice, nicNetdev } from './nic.ts'
import type { QemuBinary } from './probe.ts'
import { runPaths } from './run-dir.ts'
import { RAM_BLOCK } from './stream-format.ts'
import { isAtLeast, versionPair } from './version.ts'

/** Places 0x10 to 0x1e on pcie.0; the chipset has 0x1f, drover's own devices the first ones. */
export const MAX_ROOT_PORTS = 15
const FIRST_ROOT_PORT_SLOT = 0x10
const RNG_SLOT = 0x2
const SERIAL_SLOT = 0x3
const DISK_SLOT = 0x4

/** Before 8.2 QEMU has no way to open a private mapping's file read-only and have RAM the guest can write. */
const READ_ONLY_RAM_FILE_SINCE = [8, 2] as const

/** The name of option strings that take no JSON (-machine, -cpu): no comma may add an option. */
const PLAIN_WORD = /^[A-Za-z0-9][A-Za-z0-9._-]*$/
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i

export type DiskFormat = 'raw' | 'qcow2'

/** A QEMU to start. Paths are absolute. */
export interface QemuLaunch {
  machine: MachineSpec
  /** `share`: only to make a template. Otherwise the file is mapped privately: the guest's writes are its own. */
  ram: { path: string; share: boolean }
  /** Kernel and initrd are given to every QEMU, arrivals too: a guest that reboots loads them again. */
  kernelPath: string
  initrdPath: string | null
  /**
   * `overlayPath`: the VM's qcow2, over the template's image; null while a
   * template is made, which writes the image itself. `baseFormat`: found out by
   * `QemuProcess.start` when absent (disk-image.ts).
   */
  disk: { basePath: string; overlayPath: string | null; baseFormat?: DiskFormat } | null
  /** NICs present from the start: those of an arriving VM. A clone gets its own by `addNic`. */
  nics: readonly NicSpec[]
  /** vmgenid: `auto` for a new guest, the VM's own UUID for one that moves. */
  generationId: 'auto' | string
  /** Waits for a state to be loaded instead of booting. */
  incoming: boolean
  /** Sockets and log live here. */
  runDir: string
}

/**
 * The command line for a launch. QEMU starts paused (`-S`), with nothing that
 * was not asked for, and locked in by seccomp. Everything that can is given as
 * JSON: a path may hold any character.
 *
 * The device layout is part of every template's state: slots are fixed, and a
 * change here makes templates that exist unloadable.
 *
 * @throws QemuError LAUNCH_INVALID, SOCKET_PATH_TOO_LONG
 */
export function qemuArguments(binary: QemuBinary, launch: QemuLaunch): string[] {
  checkLaunch(binary, launch)
  const { machine } = launch
  return [
    '-S',
    '-nodefaults',
    '-no-user-config',
    '-only-migratable',
    ...['-display', 'none'],
    ...['-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny'],
    ...[
      '-machine',
      `${machine.machineType},memory-backend=${RAM_BLOCK},vmport=off,usb=off,sata=off,graphics=off`,
    ],
    ...['-accel', machine.accelerator],
    // enforce: a host that lacks one of the model's features refuses, instead of leaving it out.
    ...['-cpu', `${machine.cpuModel},enforce`],
    ...['-smp', `cpus=${machine.cpus}`],
    ...['-m', `size=${machine.memoryBytes / 1024}k`],
    ...['-object', JSON.stringify(ramBackend(binary, launch))],
    ...kernelArguments(launch),
    ...socketArguments(launch),
    ...deviceArguments(launch),
    ...(launch.incoming ? ['-incoming', 'defer'] : []),
  ]
}

/** Whether this QEMU opens the RAM file for reading alone. */
export function opensRamReadOnly(binary: QemuBinary, { ram }: Pick<QemuLaunch, 'ram'>): boolean {
  return !ram.share && isAtLeast(versionPair(binary.version), READ_ONLY_RAM_FILE_SINCE)
}

function ramBackend(binary: QemuBinary, launch: QemuLaunch): Record<string, unknown> {
  const { ram, machine } = launch
  return {
    'qom-type': 'memory-backend-file',
    id: RAM_BLOCK,
    size: machine.memoryBytes,
    'mem-path': ram.path,
    share: ram.share,
    // KSM would merge and split private pages behind the capture's back.
    merge: false,
    ...(opensRamReadOnly(binary, launch) ? { readonly: true, rom: 'off' } : {}),
  }
}

function kernelArguments({ kernelPath, initrdPath, machine }: QemuLaunch): string[] {
  return [
    ...['-kernel', kernelPath],
    ...(initrdPath === null ? [] : ['-initrd', initrdPath]),
    ...['-append', machine.kernelCommandLine],
  ]
}

function socketArguments({ runDir }: QemuLaunch): string[] {
  const paths = runPaths(runDir)
  return [
    ...['-chardev', socketChardev('qmp', paths.qmp)],
    ...['-mon', 'chardev=qmp,mode=control'],
    ...['-chardev', socketChardev('console', paths.console)],
    ...['-serial', 'chardev:console'],
    ...['-chardev', socketChardev('agent', paths.agent)],
  ]
}

/** -chardev takes no JSON: in its values a comma is written twice. */
export function socketChardev(id: string, path: string): string {
  return `socket,id=${id},path=${path.replaceAll(',', ',,')},server=on,wait=off`
}

function deviceArguments(launch: QemuLaunch): string[] {
  const device = (properties: Record<string, unknown>) => ['-device', JSON.stringify(properties)]
  const onRootBus = (slot: number) => ({ bus: 'pcie.0', addr: slot.toString(16) })
  return [
    ...device({ driver: 'vmgenid', id: 'generation', guid: launch.generationId }),
    ...['-object', JSON.stringify({ 'qom-type': 'rng-random', id: 'entropy', filename: '/dev/urandom' })],
    ...device({ driver: 'virtio-rng-pci', id: 'rng', rng: 'entropy', ...onRootBus(RNG_SLOT) }),
    ...device({ driver: 'virtio-serial-pci', id: 'serial', ...onRootBus(SERIAL_SLOT) }),
    ...device({
      driver: 'virtserialport',
      id: 'agent-port',
      bus: 'serial.0',
      nr: 1,
      chardev: 'agent',
      name: 'org.qemu.guest_agent.0',
    }),
    ...blockNodes(launch).flatMap((node) => ['-blockdev', JSON.stringify(node)]),
    ...(launch.disk === null
      ? []
      : device({ driver: 'virtio-blk-pci', id: 'disk', drive: 'disk', ...onRootBus(DISK_SLOT) })),
    ...Array.from({ length: launch.machine.spareRootPorts }, (_, slot) =>
      device({
        driver: 'pcie-root-port',
        id: `rp${slot}`,
        chassis: slot + 1,
        slot: slot + 1,
        ...onRootBus(FIRST_ROOT_PORT_SLOT + slot),
      }),
    ).flat(),
    ...launch.nics.flatMap((nic) => ['-netdev', JSON.stringify(nicNetdev(nic)), ...device(nicDevice(nic))]),
  ]
}

/**
 * The disk as QEMU's block graph. `backing` is always said: the paths in an
 * image's header are its maker's, who may be another node.
 */
function blockNodes({ disk }: QemuLaunch): Record<string, unknown>[] {
  if (disk === null) return []
  const { basePath, overlayPath, baseFormat = 'qcow2' } = disk
  const isWritten = overlayPath === null
  const base = {
    driver: baseFormat,
    'node-name': isWritten ? 'disk' : 'disk-base',
    'read-only': !isWritten,
    file: { driver: 'file', filename: basePath, 'read-only': !isWritten },
    ...(isWritten ? { discard: 'unmap' } : {}),
    ...(baseFormat === 'qcow2' ? { backing: null } : {}),
  }
  if (isWritten) return [base]
  const file = { driver: 'file', filename: overlayPath }
  return [base, { driver: 'qcow2', 'node-name': 'disk', file, backing: 'disk-base', discard: 'unmap' }]
}

/** Much of a launch came from a peer once: nothing of it may mean more to QEMU than it says. */
function checkLaunch(binary: QemuBinary, launch: QemuLaunch): void {
  const { machine, disk } = launch
  const refuse = (what: string, value: unknown) => {
    throw new QemuError('LAUNCH_INVALID', `${what}: ${JSON.stringify(value)}`, { details: { what, value } })
  }
  if (!PLAIN_WORD.test(machine.machineType) || !binary.machineTypes.includes(machine.machineType)) {
    refuse(`QEMU ${binary.version} has no machine type of this name`, machine.machineType)
  }
  if (!PLAIN_WORD.test(machine.cpuModel)) refuse('not the name of a CPU model', machine.cpuModel)
  if (machine.accelerator !== 'kvm' && machine.accelerator !== 'tcg')
    refuse('no such accelerator', machine.accelerator)
  if (!isWithin(machine.cpus, 1, 255)) refuse('number of CPUs outside 1..255', machine.cpus)
  if (!isWithin(machine.memoryBytes, 1, Number.MAX_SAFE_INTEGER) || machine.memoryBytes % 4096 !== 0) {
    refuse('memory is not a number of 4 KiB pages', machine.memoryBytes)
  }
  if (!isWithin(machine.spareRootPorts, 0, MAX_ROOT_PORTS)) {
    refuse(`number of spare root ports outside 0..${MAX_ROOT_PORTS}`, machine.spareRootPorts)
  }
  if (launch.generationId !== 'auto' && !UUID.test(launch.generationId))
    refuse('not a UUID', launch.generationId)
  for (const { slot } of launch.nics) {
    if (!isWithin(slot, 0, machine.spareRootPorts - 1)) refuse('no root port for the NIC in slot', slot)
  }
  const paths = [
    launch.ram.path,
    launch.kernelPath,
    launch.initrdPath,
    launch.runDir,
    disk?.basePath,
    disk?.overlayPath,
  ]
  for (const path of paths) {
    if (path !== null && path !== undefined && !isAbsolute(path)) refuse('not an absolute path', path)
  }
  for (const text of [...paths, machine.kernelCommandLine]) {
    if (text?.includes('\0')) refuse('a zero byte in', text)
  }
}

function isWithin(value: number, min: number, max: number): boolean {
  return Number.isInteger(value) && value >= min && value <= max
}
