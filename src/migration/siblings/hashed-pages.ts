import { hash } from 'node:crypto'
import { REFERENCE_BYTES } from '../../codec/index.ts'
import type { PageBitmap } from '../../domain/bitmap.ts'
import { CHUNK_BYTES, CHUNK_PAGES, isZeroPage, PAGE_BYTES, type PageIndex } from '../../domain/page.ts'
import type { GuestMemory } from '../../memory/index.ts'

/**
 * Pages of one VM by their content, in memory that threads share: 28 bytes a
 * page. What they hash to was so when they were looked at; the guest goes on, so
 * whoever uses one looks again.
 */
export interface HashedPages {
  /** The hash of each, REFERENCE_BYTES long, back to back. */
  hashes: Uint8Array
  indices: Uint32Array
  /** Ascending: the first 4 bytes of a hash as a number, times PLACES, plus its place among the hashes. */
  order: Float64Array
}

/** Most pages of a VM: an order has 32 bits of hash, and a double holds 53 exactly. */
export const PLACES = 2 ** 20

/** What a reference names a page by. SHA-256: VMs of several owners share a node, so nobody must find two pages with one hash. */
export function referenceHash(content: Uint8Array): Buffer {
  return hash('sha256', content, 'buffer').subarray(0, REFERENCE_BYTES)
}

/** The first 4 bytes of a hash, which alone stand in filters. */
export function hashPrefix(hashes: Uint8Array, offset: number): number {
  return (
    (hashes[offset]! |
      (hashes[offset + 1]! << 8) |
      (hashes[offset + 2]! << 16) |
      (hashes[offset + 3]! << 24)) >>>
    0
  )
}

/**
 * Hashes pages of a VM, a step at a time, synchronously: for a page thread,
 * which has other jobs between the steps. A step of 256 pages: 1 to 3 ms.
 *
 *     const hasher = new PageHasher(pages, maxPages)
 *     while (hasher.step(memory));
 *     hasher.take()
 */
export class PageHasher {
  readonly #pages: PageBitmap
  readonly #maxPages: number
  readonly #hashes: Uint8Array
  readonly #indices: Uint32Array
  readonly #buffer = Buffer.allocUnsafe(CHUNK_BYTES)
  #next: PageIndex = 0
  #count = 0

  /** @param pages - of these, zero pages are left out, and those beyond `maxPages` */
  constructor(pages: PageBitmap, maxPages: number) {
    this.#pages = pages
    this.#maxPages = Math.min(maxPages, pages.count, PLACES)
    this.#hashes = new Uint8Array(this.#maxPages * REFERENCE_BYTES)
    this.#indices = new Uint32Array(this.#maxPages)
  }

  /**
   * @returns whether there are more
   * @throws what reading throws: MemoryError MEMORY_PROCESS_GONE
   */
  step(memory: Pick<GuestMemory, 'read'>): boolean {
    for (let looked = 0; looked < CHUNK_PAGES; ) {
      const run = this.#pages.runFrom(this.#next, CHUNK_PAGES - looked)
      if (run === null || this.#count === this.#maxPages) return false
      memory.read(run, this.#buffer)
      for (let index = run.first; index < run.end && this.#count < this.#maxPages; index++) {
        const at = (index - run.first) * PAGE_BYTES
        this.#add(index, this.#buffer.subarray(at, at + PAGE_BYTES))
      }
      this.#next = run.end
      looked += run.end - run.first
    }
    return true
  }

  take(): HashedPages {
    const count = this.#count
    const hashes = new Uint8Array(new SharedArrayBuffer(count * REFERENCE_BYTES))
    hashes.set(this.#hashes.subarray(0, hashes.length))
    const indices = new Uint32Array(new SharedArrayBuffer(count * Uint32Array.BYTES_PER_ELEMENT))
    indices.set(this.#indices.subarray(0, count))
    const order = new Float64Array(new SharedArrayBuffer(count * Float64Array.BYTES_PER_ELEMENT))
    for (let place = 0; place < count; place++) {
      order[place] = hashPrefix(hashes, place * REFERENCE_BYTES) * PLACES + place
    }
    order.sort()
    return { hashes, indices, order }
  }

  #add(index: PageIndex, content: Uint8Array): void {
    if (isZeroPage(content)) return
    this.#hashes.set(referenceHash(content), this.#count * REFERENCE_BYTES)
    this.#indices[this.#count++] = index
  }
}

/** The first place in an ascending array whose value is not below `value`. */
export function lowerBound(ascending: Float64Array | Uint32Array, value: number): number {
  let low = 0
  let high = ascending.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if (ascending[middle]! < value) low = middle + 1
    else high = middle
  }
  return low
}
