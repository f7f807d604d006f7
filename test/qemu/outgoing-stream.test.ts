import { randomBytes } from 'node:crypto'
import { expect, test } from 'vitest'
import { PAGE_BYTES } from '../../src/domain/page.ts'
import { RAM_BLOCK } from '../../src/qemu/index.ts'
import { OutgoingMigration } from '../../src/qemu/outgoing-migration.ts'
import { OutgoingReader, savedRunState } from '../../src/qemu/outgoing-stream.ts'
import type { QmpClient } from '../../src/qemu/qmp.ts'
import { encodeBeginning, encodeEnd, encodePages, encodeZeroPages } from '../../src/qemu/stream-format.ts'
import { seededRandom } from '../bench/random.ts'

const BLOCKS = [
  { name: RAM_BLOCK, usedBytes: 64 * PAGE_BYTES },
  { name: 'pc.bios', usedBytes: 4 * PAGE_BYTES },
]
/** A section whose data look like an end: EOF, a description of 3 bytes. */
const DEVICES = Buffer.concat([
  Buffer.from('QEVM\0\0\0\x03'),
  Buffer.from('\x04\0\0\0\x09\x0bglobalstate\0\0\0\0\0\0\0\x01\0\0\0\x08running\0'),
  Buffer.from([0, 6, 0, 0, 0, 3, 1, 2, 3]),
  Buffer.alloc(300, 7),
  Buffer.from([0]),
])

function stream(pages: readonly { offsetBytes: number; content: Uint8Array }[]): Buffer {
  return Buffer.concat([
    encodeBeginning('pc-q35-7.2', BLOCKS),
    ...encodePages(RAM_BLOCK, pages),
    ...encodeZeroPages(RAM_BLOCK, [5 * PAGE_BYTES]),
    ...encodePages('pc.bios', [{ offsetBytes: 0, content: Buffer.alloc(PAGE_BYTES, 1) }]),
    ...encodeEnd(DEVICES),
  ])
}

function read(chunks: Iterable<Buffer>): { pages: [string, number, Buffer | null][]; deviceState: Buffer } {
  const reader = new OutgoingReader()
  const pages: [string, number, Buffer | null][] = []
  for (const chunk of chunks) {
    reader.feed(chunk)
    for (let record = reader.next(); record !== null; record = reader.next()) {
      if (record.kind !== 'page') continue
      const { block, offsetBytes, content } = record
      pages.push([block.name, offsetBytes / PAGE_BYTES, content === null ? null : Buffer.from(content)])
    }
  }
  return { pages, deviceState: reader.end() }
}

function* cut(bytes: Buffer, random: () => number): Generator<Buffer> {
  for (let at = 0; at < bytes.length; ) {
    const size = 1 + Math.floor(random() ** 3 * 3 * PAGE_BYTES)
    yield bytes.subarray(at, at + size)
    at += size
  }
}

test('a stream is read the same however it is cut', () => {
  const content = [3, 9, 63].map((index) => ({
    offsetBytes: index * PAGE_BYTES,
    content: randomBytes(PAGE_BYTES),
  }))
  const whole = read([stream(content)])
  expect(whole.pages.map(([name, index]) => `${name} ${index}`)).toEqual([
    `${RAM_BLOCK} 3`,
    `${RAM_BLOCK} 9`,
    `${RAM_BLOCK} 63`,
    `${RAM_BLOCK} 5`,
    'pc.bios 0',
  ])
  expect(whole.pages[1]![2]).toEqual(content[1]!.content)
  expect(whole.pages[3]![2]).toBeNull()
  expect(whole.deviceState).toEqual(DEVICES)
  expect(savedRunState(whole.deviceState)).toBe('running')
  for (let seed = 0; seed < 50; seed++) expect(read(cut(stream(content), seededRandom(seed)))).toEqual(whole)
})

test.each<[string, (bytes: Buffer) => Buffer]>([
  ['ends within RAM', (bytes) => bytes.subarray(0, 2 * PAGE_BYTES)],
  ['ends within the devices', (bytes) => bytes.subarray(0, -4)],
  ['is no migration', (bytes) => Buffer.concat([Buffer.from('HTTP'), bytes.subarray(4)])],
  ['has a page beyond its block', (bytes) => patched(bytes, bytes.indexOf('\x04ram0', 60) - 6, 0x7f)],
])('a stream that %s is refused', (_, damage) => {
  const bytes = stream([{ offsetBytes: 0, content: randomBytes(PAGE_BYTES) }])
  expect(() => read([damage(bytes)])).toThrow(expect.objectContaining({ code: 'OUTGOING_MALFORMED' }))
})

test.each([
  ['kvm', 7, 2, true],
  ['tcg', 7, 2, false],
  ['tcg', 8, 1, false],
  ['tcg', 8, 2, true],
  ['tcg', 10, 0, true],
] as const)('%s %i.%i: nothing is lost is %s', (accelerator, major, minor, isSound) => {
  const qmp = { version: { major, minor, micro: 0 } } as QmpClient
  expect(OutgoingMigration.isSound(qmp, accelerator)).toBe(isSound)
})

function patched(bytes: Buffer, at: number, value: number): Buffer {
  const copy = Buffer.from(bytes)
  copy[at] = value
  return copy
}
