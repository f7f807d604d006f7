import { randomBytes } from 'node:crypto'
import { createZstdCompress } from 'node:zlib'
import { expect, test } from 'vitest'
import { CHUNK_BYTES, PAGE_BYTES } from '../../src/domain/page.ts'
import { decodePages, encodePages } from '../../src/template/pages-data.ts'

test.each<[what: string, pages: () => Buffer, compressed: boolean]>([
  ['one page of one byte', () => Buffer.alloc(PAGE_BYTES, 7), true],
  ['one page of noise', () => randomBytes(PAGE_BYTES), false],
  ['85 pages of text', () => Buffer.alloc(85 * PAGE_BYTES, 'text'), true],
  ['a chunk of noise', () => randomBytes(CHUNK_BYTES), false],
])('%s survives', async (_, content, compressed) => {
  const pages = content()
  const encoded = await encodePages(pages)
  expect(encoded.compressed).toBe(compressed)
  expect((await decodePages(encoded, pages.length))!.equals(pages)).toBe(true)
  expect(await decodePages(encoded, pages.length - PAGE_BYTES)).toBeNull()
  expect(await decodePages(encoded, pages.length + PAGE_BYTES)).toBeNull()
})

test('a bomb is not unpacked beyond what it should hold', async () => {
  const bombMiB = 256
  const zstd = createZstdCompress()
  const packed = zstd.toArray()
  for (let i = 0; i < bombMiB; i++) zstd.write(Buffer.alloc(1024 * 1024))
  zstd.end()
  const pages = Buffer.concat(await packed)
  expect(pages.length).toBeLessThan(CHUNK_BYTES)
  const beforeKiB = process.resourceUsage().maxRSS
  expect(await decodePages({ pages, compressed: true }, PAGE_BYTES)).toBeNull()
  expect(process.resourceUsage().maxRSS - beforeKiB).toBeLessThan(64 * 1024)
})
