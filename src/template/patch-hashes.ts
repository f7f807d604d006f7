import type { FileHandle } from 'node:fs/promises'
import { PageBitmap } from '../domain/bitmap.ts'
import { CHUNK_BYTES, CHUNK_PAGES, PAGE_BYTES } from '../domain/page.ts'
import { TemplateError } from './errors.ts'
import { readFully, writeFully } from './file-bytes.ts'
import { CHUNK_HASHES_BYTES, chunkHash, HASH_BYTES, hashPages } from './hashing.ts'

/**
 * Brings page hashes and chunk hashes of a RAM file up to date after pages of
 * it were written: reads those pages, and nothing else of it.
 *
 *     written pages   3 5         300 301            of 131,072
 *     chunks          0           1                  8 KiB of page hashes each: read, checked, patched, written
 *     chunk hashes    computed    computed           the other 510 are as they were
 *
 * @param files - `pageHashes`: as it was before the pages were written
 * @param known.chunkHashes - of the RAM file as it was then; not changed
 * @returns all chunk hashes, and how many pages have another hash than before
 * @throws TemplateError TEMPLATE_DAMAGED when `pageHashes` isn't what `chunkHashes` says
 */
export async function patchPageHashes(
  files: { ram: FileHandle; pageHashes: FileHandle },
  known: { chunkHashes: readonly Uint8Array[]; written: PageBitmap; signal: AbortSignal },
): Promise<{ chunkHashes: Uint8Array[]; changedPages: number }> {
  const chunkHashes = [...known.chunkHashes]
  const hashes = Buffer.allocUnsafe(CHUNK_HASHES_BYTES)
  const ram = Buffer.allocUnsafe(CHUNK_BYTES)
  let changedPages = 0
  for (const [chunk, pages] of byChunk(known.written)) {
    known.signal.throwIfAborted()
    await readFully(files.pageHashes, hashes, chunk * CHUNK_HASHES_BYTES)
    if (Buffer.compare(chunkHash(hashes), chunkHashes[chunk]!) !== 0) throw damaged(chunk)
    for (const { first, end } of pages.runs(CHUNK_PAGES)) {
      const bytes = ram.subarray(0, (end - first) * PAGE_BYTES)
      await readFully(files.ram, bytes, chunk * CHUNK_BYTES + first * PAGE_BYTES)
      const found = hashPages(bytes)
      const before = hashes.subarray(first * HASH_BYTES, end * HASH_BYTES)
      changedPages += countDiffering(before, found)
      before.set(found)
    }
    await writeFully(files.pageHashes, hashes, chunk * CHUNK_HASHES_BYTES)
    chunkHashes[chunk] = chunkHash(hashes)
  }
  return { chunkHashes, changedPages }
}

/** The chunks that have pages in a set, and which pages of each: indices within the chunk. */
function byChunk(pages: PageBitmap): Map<number, PageBitmap> {
  const chunks = new Map<number, PageBitmap>()
  for (const page of pages) {
    const chunk = Math.floor(page / CHUNK_PAGES)
    const inChunk = chunks.get(chunk) ?? new PageBitmap(CHUNK_PAGES)
    chunks.set(chunk, inChunk)
    inChunk.add(page % CHUNK_PAGES)
  }
  return chunks
}

function countDiffering(before: Uint8Array, after: Uint8Array): number {
  let count = 0
  for (let at = 0; at < after.length; at += HASH_BYTES) {
    const end = at + HASH_BYTES
    if (Buffer.compare(before.subarray(at, end), after.subarray(at, end)) !== 0) count++
  }
  return count
}

function damaged(chunk: number): TemplateError {
  return new TemplateError(
    'TEMPLATE_DAMAGED',
    `the parent's page hashes of chunk ${chunk} are not what its manifest says: see \`drover template verify\``,
    { details: { chunk } },
  )
}
