import { expect, test } from 'vitest'
import { CHUNK_BYTES } from '../../src/domain/page.ts'
import { TEMPLATE_ID_PATTERN, type TemplateManifest } from '../../src/domain/template.ts'
import { checkMachine, decodeManifest, encodeManifest, templateId } from '../../src/template/index.ts'
import { messageType } from '../../src/wire/schema.ts'
import { codeThrownBy, machine } from './fixture.ts'

const hash = (byte: number): Uint8Array => new Uint8Array(32).fill(byte)

const manifest: TemplateManifest = {
  machine,
  // Three of memory, one of state, two of kernel, one of disk.
  chunkHashes: [1, 2, 3, 4, 5, 6, 7].map(hash),
  sizes: { state: 334_000, kernel: CHUNK_BYTES + 1, initrd: 0, disk: 1 },
}

interface Change {
  manifest?: object
  machine?: object
  sizes?: object
}

/** Bytes of a message that protobuf can write, and that differs from the manifest. */
function changedBytes(change: Change): Uint8Array {
  const plain = { formatVersion: 2, ...manifest, ...change.manifest }
  const type = messageType('drover.template.Manifest')
  return type
    .encode(
      type.fromObject({
        ...plain,
        machine: plain.machine && { ...plain.machine, ...change.machine },
        sizes: plain.sizes && { ...plain.sizes, ...change.sizes },
      }),
    )
    .finish()
}

test('a manifest survives encoding, and its bytes name it for good', () => {
  const bytes = encodeManifest(manifest)
  expect(decodeManifest(bytes)).toEqual(manifest)
  expect(decodeManifest(changedBytes({}))).toEqual(manifest)
  expect(templateId(bytes)).toMatch(TEMPLATE_ID_PATTERN)
  // A change here is a change of every template id: it needs a new format version.
  expect(templateId(bytes)).toBe('bafkreid24iqwl3khf6hjmlne2z3w2vyltuxoyeogdbyzmirq3mygvipocy')
})

test('decoded hashes are copies', () => {
  const bytes = encodeManifest(manifest)
  const decoded = decodeManifest(bytes)
  bytes.fill(0)
  expect(decoded).toEqual(manifest)
})

test('a machine without root ports and command line leaves both fields out', () => {
  const bare = { ...manifest, machine: { ...machine, spareRootPorts: 0, kernelCommandLine: '' } }
  const bytes = encodeManifest(bare)
  expect(decodeManifest(bytes)).toEqual(bare)
  // The machine is field 2, from the third byte on: its length, then its fields.
  const end = 4 + bytes[3]!
  const explicitZero = Buffer.concat([bytes.subarray(0, end), Buffer.from([0x30, 0]), bytes.subarray(end)])
  explicitZero[3]! += 2
  expect(messageType('drover.template.Manifest').decode(explicitZero)).toMatchObject({ formatVersion: 2 })
  expect(codeThrownBy(() => decodeManifest(explicitZero))).toBe('MANIFEST_MALFORMED')
})

test.each<[what: string, change: Change]>([
  ['the format version before', { manifest: { formatVersion: 1 } }],
  ['a later format version', { manifest: { formatVersion: 3 } }],
  ['no machine', { manifest: { machine: null } }],
  ['an alias as machine type', { machine: { machineType: 'q35' } }],
  ['an option in the machine type', { machine: { machineType: 'pc-q35-7.2,dumpdtb=/etc/passwd' } }],
  ['a line break after the machine type', { machine: { machineType: 'pc-q35-7.2\n' } }],
  ['an option in the CPU model', { machine: { cpuModel: 'qemu64,+x' } }],
  ['an empty CPU model', { machine: { cpuModel: '' } }],
  ['an unknown accelerator', { machine: { accelerator: 'xen' } }],
  ['no CPU', { machine: { cpus: 0 } }],
  ['too many CPUs', { machine: { cpus: 289 } }],
  ['too many root ports', { machine: { spareRootPorts: 17 } }],
  ['a line break in the command line', { machine: { kernelCommandLine: 'a\nb' } }],
  ['a NUL in the command line', { machine: { kernelCommandLine: 'a\0b' } }],
  ['a long command line', { machine: { kernelCommandLine: 'a'.repeat(2048) } }],
  ['no memory', { manifest: { chunkHashes: [] }, machine: { memoryBytes: 0 } }],
  ['memory that is not whole chunks', { machine: { memoryBytes: machine.memoryBytes + 4096 } }],
  ['more memory than hashes', { machine: { memoryBytes: machine.memoryBytes + CHUNK_BYTES } }],
  ['more than 1 TiB', { machine: { memoryBytes: 2 ** 40 + CHUNK_BYTES } }],
  ['memory beyond what numbers hold', { machine: { memoryBytes: 2 ** 60 } }],
  ['a short chunk hash', { manifest: { chunkHashes: [hash(1), hash(2).subarray(1), hash(3)] } }],
  ['more hashes than chunks', { manifest: { chunkHashes: [1, 2, 3, 4, 5, 6, 7, 8].map(hash) } }],
  ['no sizes', { manifest: { sizes: null } }],
  ['no state', { sizes: { state: 0 } }],
  ['no kernel', { sizes: { kernel: 0 } }],
  ['an initrd without its hashes', { sizes: { initrd: 5 } }],
  ['a disk of 32 TiB', { sizes: { disk: 32 * 2 ** 40 } }],
  ['memory of 10^12 pages', { machine: { memoryBytes: 4096 * 10 ** 12 } }],
])('%s is not a manifest', (_, change) => {
  expect(codeThrownBy(() => decodeManifest(changedBytes(change)))).toBe('MANIFEST_MALFORMED')
})

test.each<[what: string, bytes: (good: Uint8Array) => Uint8Array]>([
  ['nothing', () => new Uint8Array()],
  ['noise', () => Buffer.alloc(64, 0xff)],
  ['a cut manifest', (good) => good.subarray(0, good.length - 1)],
  ['an unknown field', (good) => Buffer.concat([good, Buffer.from([0x78, 0x01])])],
  ['a field twice', (good) => Buffer.concat([good, Buffer.from([0x08, 0x02])])],
  ['fields in another order', (good) => Buffer.concat([good.subarray(2), good.subarray(0, 2)])],
  [
    'a number in more bytes than it needs',
    (good) => Buffer.concat([Buffer.from([0x08, 0x82, 0x00]), good.subarray(2)]),
  ],
])('%s in the bytes is not canonical', (_, bytes) => {
  expect(codeThrownBy(() => decodeManifest(bytes(encodeManifest(manifest))))).toBe('MANIFEST_MALFORMED')
})

test('what no peer would accept is not encoded', () => {
  expect(codeThrownBy(() => encodeManifest({ ...manifest, chunkHashes: [] }))).toBe('MANIFEST_MALFORMED')
})

test('a machine is checked before it is booted', () => {
  expect(() => checkMachine(machine)).not.toThrow()
  expect(codeThrownBy(() => checkMachine({ ...machine, machineType: 'q35' }))).toBe('MACHINE_INVALID')
})
