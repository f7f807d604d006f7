import type { Dice } from './dice.ts'

type Value = string | number | boolean | Uint8Array

/** What fields of a name may hold, beside PLAUSIBLE. */
export type Hints = Readonly<Record<string, readonly Value[]>>

const PEER = '12D3KooWGRUaB2rCRvN9G3Qd1kUEwPSL6QnXLFhNjsfFCvA4R1Y8'
const BITMAP = Buffer.from(`05${'00'.repeat(31)}`, 'hex')

/** By field name, or message and field, over all messages: what passes the checks of `src/wire`. */
const PLAUSIBLE: Hints = {
  version: [1],
  'NodeQemu.version': ['7.2.22'],
  name: ['web', 'node-1'],
  vm: ['web'],
  vms: ['web', 'db'],
  addresses: ['/ip4/127.0.0.1/tcp/4001', `/ip4/192.0.2.1/tcp/4001/p2p/${PEER}`],
  peerId: [PEER],
  to: [PEER],
  names: ['base'],
  id: [`bafkrei${'a'.repeat(52)}`],
  templateId: [`bafkrei${'a'.repeat(52)}`],
  meshKey: [Buffer.alloc(32, 7)],
  digest: [Buffer.alloc(32, 1)],
  bitmap: [BITMAP],
  hashBytes: [5, 32],
  offsetBytes: [0, 1],
  chunk: [0, 1, 2, 3],
  chunks: [0],
  machineType: ['pc-q35-7.2'],
  accelerator: ['tcg'],
  cpuModel: ['qemu64-v1'],
  cpus: [1, 4],
  memoryBytes: [4096, 3 * 2 ** 20],
  spareRootPorts: [4],
  kernelCommandLine: ['console=ttyS0'],
  qemuVersion: ['7.2.22'],
  kind: ['user'],
  slot: [1],
  mac: ['52:54:00:12:34:56'],
  protocol: ['tcp', 'udp'],
  hostPort: [8080],
  guestPort: [80],
  host: ['192.0.2.7', '2001:db8::7', 'shop.example'],
  address: ['192.0.2.7', '2001:db8::7'],
  port: [443, 8080],
  weight: [1, 1000],
  remainingMs: [0, 60_000],
  lengthMs: [60_000],
  sinceMoveMs: [0, 1e6],
  previousNode: [PEER, ''],
  rttUs: [1, 20_000],
  axesUs: [0, 20_000],
  heightUs: [100, 5_000],
  errorPermille: [0, 1000],
  code: ['VM_BUSY', 'NOT_ENOUGH_MEMORY'],
  outcome: ['refused', 'failed'],
  message: ['no'],
  json: ['{}', '[]', '{"migrations":[]}'],
  detailsJson: ['{}', '{"a":1}'],
  owner: ['source', 'destination'],
  'InventoryVm.id': ['00000000-0000-4000-8000-000000000001'],
  'Vm.id': ['00000000-0000-4000-8000-000000000002'],
  bytes: [0, 4096],
  templateBytes: [0, 4096],
  pausedNs: [0, 1e6],
  totalBytes: [100],
  deviceStateBytes: [8],
  source: ['mallory'],
  destination: ['here'],
  limitBytes: [0, 8e9],
  availableBytes: [4e9],
  committedBytes: [3e9],
  reservedBytes: [0],
  epoch: [1, 2],
  incarnation: [1, 1_700_000_000_000],
  sequence: [1, 2, 3],
  validMs: [60_000],
  loadPermille: [500],
  cpuVendor: ['GenuineIntel'],
  cpuLevel: [1, 3],
  q35Versions: ['7.2', '10.0'],
  known: [Buffer.alloc(0), Buffer.alloc(16, 3)],
  parallel: [1, 4],
  maxBandwidthBytesPerSecond: [0, 1e6],
  maxBlackoutMs: [0, 100],
  round: [1],
  rounds: [1],
  pages: [0, 1, 256],
  indexDeltas: [0, 1, 5],
  data: [Buffer.alloc(0), Buffer.alloc(4096, 9)],
  privatePages: [0, 10],
}

const UUID_FIELDS = new Set(['migrationId', 'vmId', 'herdId', 'generationId', 'place'])

/** @returns undefined when nothing is known of the field */
export function hintedValue(message: string, field: string, hints: Hints, dice: Dice): Value | undefined {
  const choices = PLAUSIBLE[`${message}.${field}`] ?? hints[field] ?? PLAUSIBLE[field]
  if (choices !== undefined) return dice.pick(choices)
  return UUID_FIELDS.has(field) ? dice.uuid() : undefined
}

const NUMBERS = [0, 1, 2, 127, 128, 255, 256, 65_535, 65_536].map(BigInt)
const EDGES = [31n, 32n, 53n, 63n].flatMap((bits) => [2n ** bits - 1n, 2n ** bits, 2n ** bits + 1n])

/** On either side of where numbers stop to fit, up to 2^64 - 1. */
export function wildNumber(dice: Dice): bigint {
  return dice.chance(0.5) ? dice.pick(NUMBERS) : dice.pick([...EDGES, 2n ** 64n - 1n])
}

/** What has ever got from a field to a shell, a path, a terminal or a prototype. */
const TEXTS = [
  '',
  '../../etc/passwd',
  '/dev/zero',
  '$(touch fuzzed)',
  '; touch fuzzed #',
  '--daemonize',
  'a,readonly=on',
  '\x1b[2J',
  'a\nb',
  'a\0b',
  '__proto__',
  'constructor',
  'toString',
  '\u202e',
  '{"__proto__":{"polluted":1}}',
  'null',
  '[[[[[[[[[[',
  '%s%n',
]

export function wildText(dice: Dice): string {
  if (dice.chance(0.7)) return dice.pick(TEXTS)
  if (dice.chance(0.3)) return dice.pick(['a', 'ä', '😀', '[']).repeat(dice.pick([63, 64, 256, 1025, 9000]))
  return dice.bytes(dice.between(1, 40)).toString('latin1')
}

export function wildBytes(dice: Dice): Buffer {
  return dice.bytes(dice.pick([0, 1, 16, 31, 32, 33, 64, 300]))
}
