import { hash } from 'node:crypto'
import { CHUNK_BYTES, CHUNK_PAGES, isZeroPage, PAGE_BYTES, ZERO_PAGE } from '../domain/page.ts'

/** SHA-256, for pages and chunks alike. */
export const HASH_BYTES = 32
/** Page hashes of one chunk. */
export const CHUNK_HASHES_BYTES = CHUNK_PAGES * HASH_BYTES

export const ZERO_PAGE_HASH: Buffer = hash('sha256', ZERO_PAGE, 'buffer')

/** Page hashes of a chunk that holds nothing but zeros, and its hash: it needs neither a transfer nor disk space. */
export const ZERO_CHUNK_PAGE_HASHES: Buffer = hashPages(new Uint8Array(CHUNK_BYTES))
export const ZERO_CHUNK_HASH: Buffer = chunkHash(ZERO_CHUNK_PAGE_HASHES)

/**
 * SHA-256 of each page, joined, 32 bytes each. A full chunk takes about 0.8 ms, one of zeros 0.15 ms.
 *
 * @param pages - whole pages
 */
export function hashPages(pages: Uint8Array): Buffer {
  const hashes = Buffer.allocUnsafe((pages.length / PAGE_BYTES) * HASH_BYTES)
  for (let at = 0, to = 0; at < pages.length; at += PAGE_BYTES, to += HASH_BYTES) {
    const page = pages.subarray(at, at + PAGE_BYTES)
    // Through hexadecimal: 20 % faster on Node 24 than a Buffer per page.
    if (isZeroPage(page)) hashes.set(ZERO_PAGE_HASH, to)
    else hashes.write(hash('sha256', page, 'hex'), to, 'hex')
  }
  return hashes
}

/** What the manifest says of a chunk: SHA-256 over its page hashes, in order. */
export function chunkHash(pageHashes: Uint8Array): Buffer {
  return hash('sha256', pageHashes, 'buffer')
}

export function isZeroChunk(hash: Uint8Array): boolean {
  return ZERO_CHUNK_HASH.equals(hash)
}
