import { MAX_BATCH_PAGES, REFERENCE_BYTES, type ReferencedPages } from '../../codec/index.ts'
import { PAGE_BYTES, type PageIndex } from '../../domain/page.ts'
import type { GuestMemory } from '../../memory/index.ts'
import { type HashedPages, hashPrefix, lowerBound, PLACES, referenceHash } from './hashed-pages.ts'

/**
 * Pages that are read for one reference. A guest may have had the same page
 * 100,000 times and have written them all since: reading each for each
 * reference to it would keep a page thread for hours.
 */
const MAX_READS = 8

export interface ReadableSibling {
  pages: HashedPages
  memory: Pick<GuestMemory, 'read'>
}

/**
 * Finds pages in the memory of VMs that run here. For the page thread that
 * decodes: a page stays valid while the rest of its batch is asked for.
 */
export class SiblingLookup implements ReferencedPages {
  #siblings: readonly ReadableSibling[]
  /** Where pages of one batch go, in turn. */
  readonly #places: Buffer[]
  #turn = 0

  /** @param siblings - where to look, in this order */
  constructor(siblings: readonly ReadableSibling[]) {
    this.#siblings = siblings
    const contents = Buffer.allocUnsafe(siblings.length === 0 ? 0 : MAX_BATCH_PAGES * PAGE_BYTES)
    this.#places = Array.from({ length: MAX_BATCH_PAGES }, (_, i) =>
      contents.subarray(i * PAGE_BYTES, (i + 1) * PAGE_BYTES),
    )
  }

  page(hash: Uint8Array): Uint8Array | null {
    const into = this.#places[this.#turn]!
    let reads = 0
    for (const sibling of this.#siblings) {
      for (const index of pagesWith(sibling.pages, hash)) {
        if (reads++ === MAX_READS) return null
        if (!this.#read(sibling, index, into)) break
        if (!referenceHash(into).equals(hash)) continue
        this.#turn = (this.#turn + 1) % this.#places.length
        return into
      }
    }
    return null
  }

  /** @returns false for a VM that is gone: it isn't asked again */
  #read(sibling: ReadableSibling, index: PageIndex, into: Buffer): boolean {
    try {
      sibling.memory.read({ first: index, end: index + 1 }, into)
      return true
    } catch {
      this.#siblings = this.#siblings.filter((other) => other !== sibling)
      return false
    }
  }
}

/** The pages of a VM that had this hash when they were looked at. */
function* pagesWith({ hashes, indices, order }: HashedPages, hash: Uint8Array): Generator<PageIndex> {
  const prefix = hashPrefix(hash, 0)
  for (let i = lowerBound(order, prefix * PLACES); i < order.length; i++) {
    const place = order[i]! % PLACES
    if ((order[i]! - place) / PLACES !== prefix) return
    const at = place * REFERENCE_BYTES
    if (Buffer.compare(hashes.subarray(at, at + REFERENCE_BYTES), hash) === 0) yield indices[place]!
  }
}
