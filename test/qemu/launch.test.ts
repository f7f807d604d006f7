import { describe, expect, test } from 'vitest'
import { type QemuBinary, QemuError, type QemuLaunch, qemuArguments } from '../../src/qemu/index.ts'

const binary: QemuBinary = {
  path: '/usr/bin/qemu-system-x86_64',
  version: '7.2.22',
  machineTypes: ['pc-q35-7.1', 'pc-q35-7.2'],
  defaultMachineType: 'pc-q35-7.2',
  accelerator: 'tcg',
  acceleratorReason: null,
}

const launch: QemuLaunch = {
  machine: {
    machineType: 'pc-q35-7.2',
    accelerator: 'tcg',
    cpuModel: 'qemu64-v1',
    cpus: 2,
    memoryBytes: 512 * 1024 * 1024,
    spareRootPorts: 2,
    kernelCommandLine: 'console=ttyS0 a,b="c d"',
  },
  ram: { path: '/store/ram', share: false },
  kernelPath: '/store/kernel',
  initrdPath: '/store/initrd',
  disk: { basePath: '/store/disk', overlayPath: '/vm/overlay.qcow2' },
  nics: [
    {
      kind: 'user',
      slot: 1,
      mac: '52:54:00:12:34:56',
      forwards: [{ protocol: 'tcp', hostPort: 8080, guestPort: 80 }],
    },
  ],
  generationId: '14487f01-591b-4e43-af07-8be956528d8c',
  incoming: true,
  runDir: '/run/vm',
}

/** Values of an option, in order; JSON ones parsed. */
function values(args: string[], option: string): unknown[] {
  return args.flatMap((arg, i) => {
    const value = args[i + 1]
    return arg === option && value !== undefined ? [value.startsWith('{') ? JSON.parse(value) : value] : []
  })
}

function withMachine(changes: Partial<QemuLaunch['machine']>): QemuLaunch {
  return { ...launch, machine: { ...launch.machine, ...changes } }
}

test('a VM that arrives: paused, locked in, waiting, everything at its place', () => {
  const args = qemuArguments(binary, launch)
  expect(args).toEqual(expect.arrayContaining(['-S', '-nodefaults', '-no-user-config', '-only-migratable']))
  expect(values(args, '-sandbox')).toEqual([
    'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny',
  ])
  expect(values(args, '-incoming')).toEqual(['defer'])
  expect(values(args, '-append')).toEqual(['console=ttyS0 a,b="c d"'])
  expect(values(args, '-m')).toEqual(['size=524288k'])
  const devices = values(args, '-device') as Record<string, unknown>[]
  expect(devices.map(({ driver, bus, addr }) => [driver, bus, addr])).toEqual([
    ['vmgenid', undefined, undefined],
    ['virtio-rng-pci', 'pcie.0', '2'],
    ['virtio-serial-pci', 'pcie.0', '3'],
    ['virtserialport', 'serial.0', undefined],
    ['virtio-blk-pci', 'pcie.0', '4'],
    ['pcie-root-port', 'pcie.0', '10'],
    ['pcie-root-port', 'pcie.0', '11'],
    ['virtio-net-pci', 'rp1', undefined],
  ])
  expect(devices[0]).toMatchObject({ guid: launch.generationId })
  expect(values(args, '-netdev')).toEqual([{ type: 'user', id: 'net1', hostfwd: [{ str: 'tcp::8080-:80' }] }])
})

test('an overlay stands on the base that was named, whatever its header says', () => {
  expect(values(qemuArguments(binary, launch), '-blockdev')).toMatchObject([
    { 'node-name': 'disk-base', driver: 'qcow2', 'read-only': true, backing: null },
    { 'node-name': 'disk', driver: 'qcow2', backing: 'disk-base', file: { filename: '/vm/overlay.qcow2' } },
  ])
})

test('making a template writes the disk and the RAM file themselves', () => {
  const args = qemuArguments(binary, {
    ...launch,
    ram: { path: '/store/ram', share: true },
    disk: { basePath: '/store/disk', overlayPath: null, baseFormat: 'raw' },
  })
  const [disk, ...others] = values(args, '-blockdev')
  expect(disk).toMatchObject({ 'node-name': 'disk', driver: 'raw', 'read-only': false })
  expect(others).toEqual([])
  expect(values(args, '-object')[0]).toMatchObject({ 'mem-path': '/store/ram', share: true })
})

test.each([
  ['7.2.22', false, undefined],
  ['8.1.5', false, undefined],
  ['8.2.0', false, true],
  ['10.0.2', false, true],
  ['10.0.2', true, undefined],
])('QEMU %s, share %s: the RAM file is opened read-only: %s', (version, share, readonly) => {
  const args = qemuArguments({ ...binary, version }, { ...launch, ram: { path: '/store/ram', share } })
  const backend = values(args, '-object')[0] as Record<string, unknown>
  expect(backend.readonly).toBe(readonly)
  expect(backend.rom).toBe(readonly ? 'off' : undefined)
})

test('no path can add an option', () => {
  const hostile = '/a,share=on "b\' c\\d$(e)'
  const args = qemuArguments(binary, {
    ...launch,
    ram: { path: `${hostile}/ram`, share: false },
    kernelPath: `${hostile}/kernel`,
    disk: { basePath: `${hostile}/disk`, overlayPath: `${hostile}/overlay` },
    runDir: hostile,
  })
  expect(values(args, '-object')[0]).toMatchObject({ 'mem-path': `${hostile}/ram`, share: false })
  expect(values(args, '-kernel')).toEqual([`${hostile}/kernel`])
  expect(values(args, '-blockdev')).toMatchObject([
    { file: { filename: `${hostile}/disk` } },
    { file: { filename: `${hostile}/overlay` } },
  ])
  expect(values(args, '-chardev')[0]).toBe(
    'socket,id=qmp,path=/a,,share=on "b\' c\\d$(e)/qmp.sock,server=on,wait=off',
  )
})

describe('refused', () => {
  test.each<[string, QemuLaunch]>([
    ['an unknown machine type', withMachine({ machineType: 'pc-q35-99.0' })],
    ['the alias', withMachine({ machineType: 'q35' })],
    ['options in a CPU model', withMachine({ cpuModel: 'qemu64,+vmx' })],
    ['no CPU', withMachine({ cpus: 0 })],
    ['a part of a page', withMachine({ memoryBytes: 4097 })],
    ['more root ports than places', withMachine({ spareRootPorts: 16 })],
    ['a NIC without its root port', withMachine({ spareRootPorts: 1 })],
    ['a generation id that is none', { ...launch, generationId: 'auto,id=x' }],
    ['a relative path', { ...launch, kernelPath: '-version' }],
    ['a zero byte', withMachine({ kernelCommandLine: 'quiet\0' })],
    ['a MAC that is none', { ...launch, nics: [{ ...launch.nics[0]!, mac: '52:54:00:12:34' }] }],
    [
      'a port that is none',
      {
        ...launch,
        nics: [{ ...launch.nics[0]!, forwards: [{ protocol: 'tcp', hostPort: 65536, guestPort: 1 }] }],
      },
    ],
  ])('%s', (_, refused) => {
    expect(() => qemuArguments(binary, refused)).toThrow(
      expect.objectContaining({ code: 'LAUNCH_INVALID', constructor: QemuError }),
    )
  })

  test('a run directory whose sockets would have too long a path', () => {
    const fits = `/${'r'.repeat(107 - '/'.length - '/incoming.sock'.length)}`
    expect(() => qemuArguments(binary, { ...launch, runDir: fits })).not.toThrow()
    expect(() => qemuArguments(binary, { ...launch, runDir: `${fits}r` })).toThrow(
      expect.objectContaining({ code: 'SOCKET_PATH_TOO_LONG' }),
    )
  })
})
