import { createHash, hash } from 'node:crypto'
import { open } from 'node:fs/promises'
import { CHUNK_BYTES, CHUNK_PAGES, isZeroPage, PAGE_BYTES, ZERO_PAGE } from '../domain/page.ts'
import type { FileDigest } from '../domain/template.ts'

/** SHA-256, for pages, chunks and files alike. */
export const HASH_BYTES = 32
/** Page hashes of one chunk. */
export const CHUNK_HASHES_BYTES = CHUNK_PAGES * HASH_BYTES

const ZERO_PAGE_HASH = hash('sha256', ZERO_PAGE, 'buffer')

/** Page hashes of a chunk that holds nothing but zeros, and its hash: it needs neither a transfer nor disk space. */
export const ZERO_CHUNK_PAGE_HASHES: Uint8Array = hashPages(new Uint8Array(CHUNK_BYTES))
export const ZERO_CHUNK_HASH: Uint8Array = chunkHash(ZERO_CHUNK_PAGE_HASHES)

/**
 * SHA-256 of each page, joined, 32 bytes each. A full chunk takes about 0.8 ms, one of zeros 0.15 ms.
 *
 * @param chunk - whole pages, usually CHUNK_PAGES of them
 */
export function hashPages(chunk: Uint8Array): Uint8Array {
  const hashes = Buffer.allocUnsafe((chunk.length / PAGE_BYTES) * HASH_BYTES)
  for (let at = 0, to = 0; at < chunk.length; at += PAGE_BYTES, to += HASH_BYTES) {
    const page = chunk.subarray(at, at + PAGE_BYTES)
    // Through hexadecimal: 20 % faster on Node 24 than a Buffer per page.
    if (isZeroPage(page)) hashes.set(ZERO_PAGE_HASH, to)
    else hashes.write(hash('sha256', page, 'hex'), to, 'hex')
  }
  return hashes
}

/** What the manifest says of a chunk: SHA-256 over its page hashes, in order. */
export function chunkHash(pageHashes: Uint8Array): Uint8Array {
  return hash('sha256', pageHashes, 'buffer')
}

/** Digest and size of a file, read in pieces of CHUNK_BYTES: each holds the event loop for about 0.6 ms. */
export async function hashFile(
  path: string,
  options: { signal: AbortSignal; onBytes?: (bytes: number) => void },
): Promise<FileDigest> {
  await using file = await open(path)
  const sha256 = createHash('sha256')
  const buffer = Buffer.allocUnsafe(CHUNK_BYTES)
  let sizeBytes = 0
  for (;;) {
    options.signal.throwIfAborted()
    const { bytesRead } = await file.read(buffer, 0, CHUNK_BYTES, sizeBytes)
    if (bytesRead === 0) return { sha256: sha256.digest(), sizeBytes }
    sha256.update(buffer.subarray(0, bytesRead))
    sizeBytes += bytesRead
    options.onBytes?.(bytesRead)
  }
}
