import { createHash, randomBytes } from 'node:crypto'
import { expect, test } from 'vitest'
import { CHUNK_BYTES, CHUNK_PAGES, PAGE_BYTES } from '../../src/domain/page.ts'
import { chunkHash, hashPages } from '../../src/template/index.ts'

const sha256 = (bytes: Uint8Array): Buffer => createHash('sha256').update(bytes).digest()

test('hashes each page, zero pages too, and a chunk over its page hashes', () => {
  const chunk = Buffer.alloc(CHUNK_BYTES)
  randomBytes(PAGE_BYTES).copy(chunk, 7 * PAGE_BYTES)
  chunk[CHUNK_BYTES - 1] = 1
  const pages = Array.from({ length: CHUNK_PAGES }, (_, i) =>
    chunk.subarray(i * PAGE_BYTES, (i + 1) * PAGE_BYTES),
  )
  const joined = Buffer.concat(pages.map(sha256))
  expect(Buffer.compare(hashPages(chunk), joined)).toBe(0)
  expect(Buffer.compare(chunkHash(joined), sha256(joined))).toBe(0)
})

test('pages at an offset in a larger buffer', () => {
  const buffer = randomBytes(3 * PAGE_BYTES)
  const page = buffer.subarray(100, 100 + PAGE_BYTES)
  expect(Buffer.compare(hashPages(page), sha256(page))).toBe(0)
})
