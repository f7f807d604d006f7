/** What every QEMU is started with, whatever for: locked in, nothing that would harm a template, no option of anybody else's. */
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { type QemuBinary, type QemuLaunch, qemuArguments } from '../../src/qemu/index.ts'

const machine: QemuLaunch['machine'] = {
  machineType: 'pc-q35-7.2',
  accelerator: 'tcg',
  cpuModel: 'qemu64-v1',
  cpus: 2,
  memoryBytes: 512 * 1024 * 1024,
  spareRootPorts: 4,
  kernelCommandLine: 'console=ttyS0',
}
const plain: Omit<QemuLaunch, 'ram' | 'incoming'> = {
  machine,
  kernelPath: '/store/kernel',
  initrdPath: '/store/initrd',
  disk: null,
  nics: [],
  generationId: 'auto',
  runDir: '/run/vm',
}
const made = { basePath: '/store/disk', overlayPath: null, baseFormat: 'raw' } as const
const overlaid = { basePath: '/store/disk', overlayPath: '/vm/overlay.qcow2', baseFormat: 'qcow2' } as const
const nic = {
  kind: 'user',
  slot: 0,
  mac: '52:54:00:12:34:56',
  forwards: [{ protocol: 'tcp', hostPort: 8080, guestPort: 80 }],
} as const
const template = { ...plain, ram: { path: '/store/ram', share: true }, incoming: false }
const clone = { ...plain, ram: { path: '/store/ram', share: false }, incoming: true }
const arrival = { ...clone, generationId: '14487f01-591b-4e43-af07-8be956528d8c' }

const LAUNCHES: [what: string, launch: QemuLaunch][] = [
  ['the boot of a template', template],
  ['the boot of a template with a disk', { ...template, disk: made }],
  ['a clone', clone],
  ['a clone with a disk, without initrd', { ...clone, disk: overlaid, initrdPath: null }],
  ['an arrival', arrival],
  ['an arrival with a disk and NICs', { ...arrival, disk: overlaid, nics: [nic, { ...nic, slot: 3 }] }],
]
const VERSIONS = ['7.2.22', '8.2.2', '10.0.2']
const CASES = LAUNCHES.flatMap(([what, launch]) =>
  VERSIONS.map((version): [string, string, QemuLaunch] => [what, version, launch]),
)

/** Options without a value; every other one has the word after it. */
const FLAGS = ['-S', '-nodefaults', '-no-user-config', '-only-migratable']
/** All that may ever be on a command line; nothing of it twice but what is listed so. */
const ONCE = [
  '-display',
  '-sandbox',
  '-machine',
  '-accel',
  '-cpu',
  '-smp',
  '-m',
  '-kernel',
  '-append',
  '-mon',
  '-serial',
]
const AT_MOST_ONCE = ['-initrd', '-incoming']
const MANY = ['-object', '-chardev', '-device', '-blockdev', '-netdev']
/** Objects and devices, of which there is no other. */
const KINDS = [
  ...['memory-backend-file', 'rng-random'],
  ...['vmgenid', 'virtio-rng-pci', 'virtio-serial-pci', 'virtserialport', 'virtio-blk-pci', 'pcie-root-port'],
  'virtio-net-pci',
]

function binary(version: string): QemuBinary {
  return {
    path: '/usr/bin/qemu-system-x86_64',
    version,
    machineTypes: ['pc-q35-7.2'],
    defaultMachineType: 'pc-q35-7.2',
    accelerator: 'tcg',
    acceleratorReason: null,
  }
}

/** As QEMU reads them: an option is a word in an option's place, whatever other words look like. */
function optionsOf(args: readonly string[]): [option: string, value: string | null][] {
  const options: [string, string | null][] = []
  for (let at = 0; at < args.length; at++) {
    const option = args[at]!
    options.push(FLAGS.includes(option) ? [option, null] : [option, args[++at] ?? null])
  }
  return options
}

const parsed = (options: [string, string | null][], ...names: string[]): Record<string, unknown>[] =>
  options.flatMap(([option, value]) => (names.includes(option) ? [JSON.parse(value!)] : []))

describe.each(CASES)('%s, QEMU %s', (_what, version, launch) => {
  const args = qemuArguments(binary(version), launch)
  const options = optionsOf(args)
  const names = options.map(([option]) => option)

  test('is denied what no VM needs, and can always be moved', () => {
    const [sandbox] = options.flatMap(([option, value]) => (option === '-sandbox' ? [value!] : []))
    expect(sandbox!.split(',').toSorted()).toEqual([
      'elevateprivileges=deny',
      'obsolete=deny',
      'on',
      'resourcecontrol=deny',
      'spawn=deny',
    ])
    for (const flag of FLAGS) expect(names.filter((name) => name === flag)).toHaveLength(1)
  })

  test('has options that are known, each as often as it may be', () => {
    expect([...FLAGS, ...ONCE, ...AT_MOST_ONCE, ...MANY]).toEqual(expect.arrayContaining(names))
    for (const name of ONCE)
      expect(
        names.filter((each) => each === name),
        name,
      ).toHaveLength(1)
    for (const name of AT_MOST_ONCE) expect(names.filter((each) => each === name).length).toBeLessThan(2)
  })

  test('has no balloon, no memory device, nothing that takes or locks all of its memory', () => {
    const parts = parsed(options, '-object', '-device')
    expect(KINDS).toEqual(expect.arrayContaining(parts.map((part) => part['qom-type'] ?? part.driver)))
    const [ram, ...others] = parts.filter((part) => part['qom-type'] === 'memory-backend-file')
    expect(others).toEqual([])
    expect(Object.keys(ram!).toSorted()).toEqual(
      [
        ...['id', 'mem-path', 'merge', 'qom-type', 'share', 'size'],
        ...(launch.ram.share || version === '7.2.22' ? [] : ['readonly', 'rom']),
      ].toSorted(),
    )
    expect(args.join('\n')).not.toMatch(
      /balloon|virtio-mem|virtio-pmem|prealloc|mem-lock|free-page|overcommit|vfio/,
    )
  })
})

const HOSTILE = [
  ...[
    'a,b',
    'a,,b',
    ',server=off',
    'x,share=on',
    '\'"\\',
    '$(id)`id`',
    '%s%n',
    'a b\tc',
    'a\nb',
    '\n-device\nvfio-pci',
  ],
  ...[
    '{"driver":"vfio-pci"}',
    '"},{"driver":"x"}',
    '-daemonize',
    '../../etc/passwd',
    'ünï\u2028',
    '\u0007\u001b[31m',
  ],
]

/** As QEMU reads `key=value,...` (get_opt_value in util/qemu-option.c): two commas are one of the value. */
function readChardev(text: string): Record<string, string> {
  const parts: string[] = ['']
  for (let at = 0; at < text.length; at++) {
    const isEscaped = text[at] === ',' && text[at + 1] === ','
    if (text[at] === ',' && !isEscaped) parts.push('')
    else parts.push(`${parts.pop()}${text[at]}`)
    if (isEscaped) at++
  }
  return Object.fromEntries(
    parts.map((part) => {
      const [key = '', ...value] = part.split('=')
      return [key, value.join('=')]
    }),
  )
}

test.each(HOSTILE)('%j adds no option: not as a path, not as a kernel command line', (text) => {
  const benign: QemuLaunch = { ...arrival, disk: overlaid, nics: [nic] }
  const launch: QemuLaunch = {
    ...benign,
    machine: { ...machine, kernelCommandLine: text },
    ram: { path: `/${text}/ram`, share: false },
    kernelPath: `/${text}/kernel`,
    initrdPath: `/${text}/initrd`,
    disk: { ...overlaid, basePath: `/${text}/disk`, overlayPath: `/${text}/overlay` },
    runDir: `/${text}`,
  }
  const [expected, found] = [benign, launch].map((each) => optionsOf(qemuArguments(binary('7.2.22'), each)))
  expect(found!.map(([option]) => option)).toEqual(expected!.map(([option]) => option))
  const wordAfter = (name: string) => found!.find(([option]) => option === name)![1]
  expect([wordAfter('-append'), wordAfter('-kernel'), wordAfter('-initrd')]).toEqual([
    text,
    `/${text}/kernel`,
    `/${text}/initrd`,
  ])
  const [ram] = parsed(found!, '-object')
  expect(ram).toEqual({ ...parsed(expected!, '-object')[0], 'mem-path': `/${text}/ram` })
  const [base, overlay] = parsed(found!, '-blockdev') as { file: unknown }[]
  expect([base!.file, overlay!.file]).toEqual([
    { driver: 'file', filename: `/${text}/disk`, 'read-only': true },
    { driver: 'file', filename: `/${text}/overlay` },
  ])
})

test.each(HOSTILE)('%j stays the path of a socket', (text) => {
  const args = qemuArguments(binary('7.2.22'), { ...arrival, runDir: `/${text}` })
  const chardevs = optionsOf(args).flatMap(([option, value]) => (option === '-chardev' ? [value!] : []))
  expect(chardevs.map(readChardev)).toEqual(
    [
      ['qmp', 'qmp.sock'],
      ['console', 'console.sock'],
      ['agent', 'agent.sock'],
    ].map(([id, file]) => ({ socket: '', id, path: join(`/${text}`, file!), server: 'on', wait: 'off' })),
  )
})

const withNic = (changes: object): QemuLaunch => ({ ...arrival, nics: [{ ...nic, ...changes }] })
const withMachine = (changes: object): QemuLaunch => ({ ...arrival, machine: { ...machine, ...changes } })

describe.each(HOSTILE)('%j is refused', (text) => {
  test.each<[string, QemuLaunch]>([
    ['as a machine type', withMachine({ machineType: `pc-q35-7.2${text}` })],
    ['as a CPU model', withMachine({ cpuModel: `qemu64-v1,${text}` })],
    ['as an accelerator', withMachine({ accelerator: text })],
    ['as a vmgenid', { ...arrival, generationId: `${arrival.generationId}${text}` }],
    ['as a MAC address', withNic({ mac: `${nic.mac}${text}` })],
    ['as a kind of NIC', withNic({ kind: text })],
    ['as a slot', withNic({ slot: text })],
    ['as a protocol', withNic({ forwards: [{ protocol: text, hostPort: 1, guestPort: 1 }] })],
    ['as a port', withNic({ forwards: [{ protocol: 'tcp', hostPort: text, guestPort: 1 }] })],
    ['as a number of CPUs', withMachine({ cpus: text })],
    ['as an amount of memory', withMachine({ memoryBytes: text })],
  ])('%s', (_, launch) => {
    expect(() => qemuArguments(binary('7.2.22'), launch)).toThrow(
      expect.objectContaining({ code: 'LAUNCH_INVALID' }),
    )
  })
})
