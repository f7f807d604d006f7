import { randomBytes } from 'node:crypto'
import { expect, test } from 'vitest'
import { PageHashes } from '../../src/codec/index.ts'
import { PageBitmap } from '../../src/domain/bitmap.ts'
import { PAGE_BYTES, ZERO_PAGE } from '../../src/domain/page.ts'

test('tells changed pages from unchanged ones', () => {
  const hashes = new PageHashes(8, 1)
  const content = randomBytes(PAGE_BYTES)
  expect(hashes.update(3, content)).toBe(true)
  expect(hashes.update(3, Buffer.from(content))).toBe(false)
  content[4095]! ^= 1
  expect(hashes.update(3, content)).toBe(true)
  expect([...hashes.known]).toEqual([3])
})

test('pages that collide in xxHash64 whatever the seed are different pages', () => {
  const content = randomBytes(PAGE_BYTES)
  // With this word, what the highest bit adds is known.
  content.writeBigUInt64LE(0n, 0)
  // It becomes bit 30 by the rotation, times the first of xxHash64's primes; the lane's next word comes in times the
  // second, here by its inverse.
  const cancelling = 0x40000000n * 0x9e3779b185ebca87n * 0xba79078168d4bafn
  const collision = Buffer.from(content)
  collision.writeBigUInt64LE(1n << 63n, 0)
  collision.writeBigUInt64LE(BigInt.asUintN(64, content.readBigUInt64LE(32) - cancelling), 32)
  for (const seed of [0, 1, 0x8000_0000, 0xffff_ffff]) {
    const hashes = new PageHashes(1, seed)
    hashes.update(0, content)
    expect(hashes.update(0, collision), `seed ${seed}`).toBe(true)
  }
})

test('the shared zero page hashes like any page of zeros', () => {
  const hashes = new PageHashes(8, 7)
  hashes.update(1, ZERO_PAGE)
  expect(hashes.update(1, Buffer.alloc(PAGE_BYTES))).toBe(false)
  expect(hashes.holdsZeros(1)).toBe(true)
  hashes.update(1, randomBytes(PAGE_BYTES))
  expect(hashes.holdsZeros(1)).toBe(false)
  expect(hashes.holdsZeros(2)).toBe(false)
})

test('two tables of the same pages have one digest, in whatever order they were filled', () => {
  const contents = Array.from({ length: 8 }, () => randomBytes(PAGE_BYTES))
  const [a, b] = [new PageHashes(8, 42), new PageHashes(8, 42)]
  for (let i = 0; i < 8; i++) a.update(i, contents[i]!)
  for (let i = 7; i >= 0; i--) b.update(i, contents[i]!)
  expect(Buffer.compare(a.digest(a.known), b.digest(b.known))).toBe(0)
  contents[5]![0]! ^= 1
  b.update(5, contents[5]!)
  expect(Buffer.compare(a.digest(a.known), b.digest(b.known))).not.toBe(0)
  expect(Buffer.compare(a.digest(PageBitmap.from(8, [1, 2])), b.digest(PageBitmap.from(8, [1, 2])))).toBe(0)
})
