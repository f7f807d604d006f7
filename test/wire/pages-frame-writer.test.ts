import { randomBytes } from 'node:crypto'
import { expect, test } from 'vitest'
import { pagesCodec } from '../../src/wire/migration-messages.ts'
import { MAX_PAGES_FRAME_BYTES } from '../../src/wire/pages-frame-bounds.ts'
import { type WrittenGroup, writePagesFrame } from '../../src/wire/pages-frame-writer.ts'

const NAMES = {
  zero: 'ENCODING_ZERO',
  template: 'ENCODING_TEMPLATE',
  raw: 'ENCODING_RAW',
  zstd: 'ENCODING_ZSTD',
  delta: 'ENCODING_DELTA',
  reference: 'ENCODING_REFERENCE',
} as const

const noData = new Uint8Array(0)
const all: WrittenGroup[] = [
  { encoding: 'zero', indices: [0, 1, 127, 128, 16_384, 2 ** 21, 2 ** 28, 2 ** 31], data: noData },
  { encoding: 'template', indices: [5], data: noData },
  { encoding: 'raw', indices: [7, 8], data: randomBytes(8192) },
  { encoding: 'zstd', indices: [300], data: randomBytes(100) },
  { encoding: 'delta', indices: [301, 1_000_000], data: randomBytes(127) },
  { encoding: 'reference', indices: [302], data: randomBytes(16) },
]
const full: WrittenGroup[] = [
  {
    encoding: 'raw',
    indices: Array.from({ length: 256 }, (_, i) => 2 ** 20 + i * 3),
    data: randomBytes(256 * 4096),
  },
]

test.each([
  ['each kind of group', 1, all],
  ['as much as there may be', 30, full],
  ['a round of many', 2 ** 31, all.slice(2, 3)],
] as const)('%s is read as it was written', (_, round, groups) => {
  const into = new Uint8Array(new SharedArrayBuffer(MAX_PAGES_FRAME_BYTES)).fill(0xdb)
  const frame = pagesCodec.decode(writePagesFrame(into, round, groups))
  expect(frame).toEqual({
    kind: 'batch',
    round,
    groups: groups.map(({ encoding, indices, data }) => ({
      encoding: NAMES[encoding],
      indexDeltas: indices.map((index, i) => index - (i === 0 ? 0 : indices[i - 1]!)),
      data: expect.toSatisfy((bytes: Uint8Array) => Buffer.compare(bytes, data) === 0),
    })),
  })
})

test('a frame that does not fit is not begun', () => {
  const into = new Uint8Array(1000)
  expect(() => writePagesFrame(into, 1, all)).toThrow(RangeError)
  expect(into.every((byte) => byte === 0)).toBe(true)
})
