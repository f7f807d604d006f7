import { randomBytes } from 'node:crypto'
import { expect, test } from 'vitest'
import {
  encodeFilter,
  filterEntriesFor,
  MAX_FILTER_BYTES,
  MAX_FILTER_ENTRIES,
  SiblingFilter,
} from '../../../src/migration/siblings/sibling-filter.ts'

/** A hash that begins with these bytes. */
function hashOf(prefix: number): Buffer {
  const hash = randomBytes(16)
  hash.writeUInt32LE(prefix)
  return hash
}

/** Ascending, each once. */
function randomPrefixes(count: number): Uint32Array {
  const prefixes = new Set<number>()
  while (prefixes.size < count) prefixes.add(randomBytes(4).readUInt32LE())
  return Uint32Array.from(prefixes).sort()
}

test.each([
  ['nothing', []],
  ['the least', [0]],
  ['the most', [0xffff_ffff]],
  ['both', [0, 0xffff_ffff]],
  ['neighbours', [5, 6, 7, 127, 128, 255, 256, 16_383, 16_384, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 2]],
])('%s comes back', (_what, prefixes) => {
  const bytes = encodeFilter(Uint32Array.from(prefixes))
  const filter = SiblingFilter.decode(bytes)
  expect(filter.isEmpty).toBe(prefixes.length === 0)
  expect(bytes.length === 0).toBe(prefixes.length === 0)
  for (const prefix of prefixes) expect(filter.has(hashOf(prefix)), `${prefix}`).toBe(true)
  for (const prefix of [1, 4, 8, 2 ** 30]) expect(filter.has(hashOf(prefix)), `${prefix}`).toBe(false)
})

test('as many as there may be take less than 200 KB', () => {
  const prefixes = randomPrefixes(MAX_FILTER_ENTRIES)
  const bytes = encodeFilter(prefixes)
  expect(bytes.length).toBeLessThan(200_000)
  const filter = SiblingFilter.decode(bytes)
  expect(prefixes.every((prefix) => filter.has(hashOf(prefix)))).toBe(true)
})

test('even the differences that take the most find room', () => {
  // As many of four bytes as leave the others, of three, their part of 2^32.
  const four = (2 ** 32 - MAX_FILTER_ENTRIES * 2 ** 14) / 2 ** 21 - 1
  const worst = new Uint32Array(MAX_FILTER_ENTRIES)
  let prefix = 0
  worst.forEach((_, i) => {
    prefix += i < four ? 2 ** 21 : 2 ** 14
    worst[i] = prefix
  })
  const bytes = encodeFilter(worst)
  expect(bytes.length).toBe(MAX_FILTER_ENTRIES * 3 + four)
  expect(bytes.length).toBeLessThanOrEqual(MAX_FILTER_BYTES)
  expect(SiblingFilter.decode(bytes).has(hashOf(prefix))).toBe(true)
})

test.each<[string, number[]]>([
  ['a difference that does not end', [0x80]],
  ['a difference of more than five bytes', [0x80, 0x80, 0x80, 0x80, 0x80, 0x01]],
  ['a number beyond 32 bits', [0xff, 0xff, 0xff, 0xff, 0x1f]],
  ['numbers that add up to more', [0xff, 0xff, 0xff, 0xff, 0x0f, 0x01]],
  ['the same twice', [5, 0]],
  ['nothing but zeros', [0, 0]],
])('%s is refused', (_what, bytes) => {
  expect(() => SiblingFilter.decode(Uint8Array.from(bytes))).toThrow(
    expect.objectContaining({ code: 'PROTOCOL_VIOLATION' }),
  )
})

test('more bytes or hashes than there may be are refused', () => {
  const violation = expect.objectContaining({ code: 'PROTOCOL_VIOLATION' })
  expect(() => SiblingFilter.decode(new Uint8Array(MAX_FILTER_BYTES + 1).fill(1))).toThrow(violation)
  expect(() => SiblingFilter.decode(new Uint8Array(MAX_FILTER_ENTRIES + 1).fill(1))).toThrow(violation)
  expect(SiblingFilter.decode(new Uint8Array(MAX_FILTER_ENTRIES).fill(1)).isEmpty).toBe(false)
})

test('random bytes are a filter, or refused with a code', () => {
  let refused = 0
  for (let i = 0; i < 500; i++) {
    try {
      SiblingFilter.decode(randomBytes(i % 64))
    } catch (error) {
      refused++
      expect(error).toMatchObject({ code: 'PROTOCOL_VIOLATION' })
    }
  }
  expect(refused).toBeGreaterThan(100)
})

test('for a small VM nothing is told, for a large one as much as fits', () => {
  expect(filterEntriesFor(88)).toBe(0)
  expect(filterEntriesFor(12_288)).toBe(MAX_FILTER_ENTRIES)
  const some = filterEntriesFor(1024)
  expect(some).toBeGreaterThan(1000)
  expect(some * 3).toBeLessThanOrEqual((1024 * 4096) / 128)
})
