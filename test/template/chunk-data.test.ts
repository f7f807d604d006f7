import { randomBytes } from 'node:crypto'
import { createZstdCompress } from 'node:zlib'
import { expect, test } from 'vitest'
import { CHUNK_BYTES, CHUNK_PAGES, PAGE_BYTES } from '../../src/domain/page.ts'
import { decodeChunk, encodeChunk } from '../../src/template/chunk-data.ts'

test.each<[what: string, pages: number[], compressed: boolean, content: () => Uint8Array]>([
  ['no page', [], false, () => new Uint8Array()],
  ['the first page', [0], true, () => Buffer.alloc(PAGE_BYTES, 7)],
  ['the last page', [CHUNK_PAGES - 1], false, () => randomBytes(PAGE_BYTES)],
  [
    'every third page',
    Array.from({ length: 85 }, (_, i) => i * 3),
    true,
    () => Buffer.alloc(PAGE_BYTES, 'text'),
  ],
  ['all pages', [...Array(CHUNK_PAGES).keys()], false, () => randomBytes(PAGE_BYTES)],
])('a chunk with %s survives', async (_, pages, compressed, content) => {
  const chunk = Buffer.alloc(CHUNK_BYTES)
  for (const page of pages) chunk.set(content(), page * PAGE_BYTES)
  const encoding = encodeChunk(5, chunk)
  const original = Buffer.from(chunk)
  // The caller may reuse its buffer at once.
  chunk.fill(0xff)
  const data = await encoding
  expect(data).toMatchObject({ chunk: 5, pageOffsets: Uint8Array.from(pages), compressed })
  expect(Buffer.compare((await decodeChunk(data))!, original)).toBe(0)
})

test('a bomb is not unpacked beyond what it claims to hold', async () => {
  const bombMiB = 256
  const zstd = createZstdCompress()
  const packed = zstd.toArray()
  for (let i = 0; i < bombMiB; i++) zstd.write(Buffer.alloc(1024 * 1024))
  zstd.end()
  const pages = Buffer.concat(await packed)
  expect(pages.length).toBeLessThan(CHUNK_BYTES)
  const beforeKiB = process.resourceUsage().maxRSS
  expect(await decodeChunk({ chunk: 0, pageOffsets: Uint8Array.of(3), pages, compressed: true })).toBeNull()
  expect(process.resourceUsage().maxRSS - beforeKiB).toBeLessThan(64 * 1024)
})
