/** Messages that are small on the wire and large in memory: refused before anything is built of them. */
import { expect, test } from 'vitest'
import { z } from 'zod'
import { CHUNK_BYTES } from '../../src/domain/page.ts'
import { decodeManifest, encodeManifest } from '../../src/template/index.ts'
import { MAX_MESSAGE_PARTS, messageCodec } from '../../src/wire/message.ts'
import { countParts } from '../../src/wire/message-parts.ts'
import { controlCodec, pagesCodec } from '../../src/wire/migration-messages.ts'
import { MAX_PAGES_FRAME_BYTES } from '../../src/wire/pages-frame-bounds.ts'
import { messageType } from '../../src/wire/schema.ts'
import { codeThrownBy, machine } from '../template/fixture.ts'

const type = messageType('drover.migration.PagesFrame')
const batchOf = (groups: object[]) => type.encode(type.fromObject({ batch: { round: 1, groups } })).finish()
const deltas = (count: number) => Array<number>(count).fill(1)

/** Told of what is built of a message. */
function watchedCodec(typeName: string) {
  let built = 0
  const schema = z.custom<object>(() => {
    built++
    return true
  })
  return { codec: messageCodec(typeName, schema), built: () => built }
}

test('messages and elements of lists are parts, wherever they are', () => {
  expect(countParts(type, batchOf([]), 100)).toBe(1)
  expect(countParts(type, batchOf([{}, {}, {}]), 100)).toBe(4)
  expect(countParts(type, batchOf([{ indexDeltas: [1, 300, 2 ** 31] }]), 100)).toBe(5)
  const hello = messageType('drover.mesh.Hello')
  const members = [{ addresses: ['a', 'b'] }, { addresses: ['c'] }]
  const bytes = hello.encode(hello.fromObject({ addresses: ['d'], members })).finish()
  expect(countParts(hello, bytes, 100)).toBe(6)
})

test('it stops counting where there are too many', () => {
  expect(countParts(type, batchOf(Array(50_000).fill({})), 10)).toBe(11)
})

test.each<[what: string, bytes: Uint8Array]>([
  ['256 Ki empty groups of pages', batchOf(Array(256 * 1024).fill({}))],
  ['a million page indices', batchOf([{ indexDeltas: deltas(MAX_PAGES_FRAME_BYTES) }])],
  ['one part too many', batchOf(Array(MAX_MESSAGE_PARTS).fill({}))],
])('%s: nothing is built', (_, bytes) => {
  const { codec, built } = watchedCodec('drover.migration.PagesFrame')
  expect(codeThrownBy(() => codec.decode(bytes))).toBe('MESSAGE_MALFORMED')
  expect(built()).toBe(0)
})

test('as many parts as there may be are built', () => {
  const { codec, built } = watchedCodec('drover.migration.PagesFrame')
  codec.decode(batchOf(Array(MAX_MESSAGE_PARTS - 1).fill({})))
  expect(built()).toBe(1)
})

test('the largest honest messages have room', () => {
  const frame = pagesCodec.encode({
    kind: 'batch',
    round: 1,
    groups: [{ encoding: 'ENCODING_ZERO', indexDeltas: deltas(256), data: new Uint8Array() }],
  })
  expect(pagesCodec.decode(frame).kind).toBe('batch')
  const forwards = Array.from({ length: 64 }, () => ({ protocol: 'tcp' as const, hostPort: 1, guestPort: 1 }))
  const nics = Array.from({ length: 32 }, (_, slot) => ({
    kind: 'user' as const,
    slot,
    mac: '52:54:00:12:34:56',
    forwards,
  }))
  const id = '00000000-0000-4000-8000-000000000000'
  const vm = {
    id,
    name: 'a',
    templateId: `bafkrei${'a'.repeat(52)}`,
    generationId: id,
    nics,
    hasDisk: false,
    clients: [],
    auto: false,
  }
  const offer = { migrationId: id, vm, epoch: 1, privatePages: 1, hashSeed: 1, qemuVersion: '7.2', machine }
  const message = controlCodec.encode({
    kind: 'offer',
    ...offer,
    paused: false,
    baseline: new Uint8Array(0),
    maxBytesPerSecond: 0,
    coolDown: null,
  })
  expect(controlCodec.decode(message)).toMatchObject({ vm: { nics } })
})

test('a manifest has one part for each chunk that its bytes have room for', () => {
  const chunks = 20_000
  const sizes = { state: 1, kernel: 1, initrd: 0, disk: 0 }
  const large = { ...machine, memoryBytes: (chunks - 2) * CHUNK_BYTES }
  const chunkHashes = Array.from({ length: chunks }, () => new Uint8Array(32).fill(7))
  const bytes = encodeManifest({ machine: large, sizes, chunkHashes })
  expect(decodeManifest(bytes).chunkHashes).toHaveLength(chunks)

  const manifest = messageType('drover.template.Manifest')
  const empties = manifest.encode(manifest.fromObject({ chunkHashes: Array(chunks).fill(new Uint8Array()) }))
  expect(codeThrownBy(() => decodeManifest(empties.finish()))).toBe('MANIFEST_MALFORMED')
})
