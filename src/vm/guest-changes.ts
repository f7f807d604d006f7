import { randomInt } from 'node:crypto'
import { PageHashes } from '../codec/index.ts'
import { PageBitmap } from '../domain/bitmap.ts'
import { CHUNK_PAGES, PAGE_BYTES, type PageIndex } from '../domain/page.ts'
import type { DirtyTracker, GuestMemory } from '../memory/index.ts'

/** Consecutive pages; whole pages, CHUNK_PAGES at most. */
export interface PagesRead {
  first: PageIndex
  bytes: Uint8Array
}

/**
 * What a guest changes of its memory, look by look. The first look gives every
 * private page, a later one those that hold something else than when they were
 * last given. A page that was given and is private no more holds the template's
 * content again: it is read once more, and given if that is news.
 */
export class GuestChanges {
  readonly #memory: GuestMemory
  readonly #tracker: DirtyTracker
  readonly #hashes: PageHashes
  readonly #given: PageBitmap
  /** Reused by every look, so that the last one allocates nothing large. */
  readonly #buffer = Buffer.alloc(CHUNK_PAGES * PAGE_BYTES)

  constructor(components: { memory: GuestMemory; tracker: DirtyTracker }) {
    this.#memory = components.memory
    this.#tracker = components.tracker
    this.#hashes = new PageHashes(this.#memory.pages, randomInt(2 ** 32))
    this.#given = new PageBitmap(this.#memory.pages)
  }

  /** One look. `bytes` are valid until the next are asked for. */
  async *look(): AsyncGenerator<PagesRead> {
    const { private: own, candidates: found } = await this.#tracker.next()
    const candidates = found.clone()
    candidates.addAll(this.#given.without(own))
    for (const { first, end } of candidates.runs(CHUNK_PAGES)) {
      this.#memory.read({ first, end }, this.#buffer)
      for (let page = first; page < end; ) {
        const start = page
        while (page < end && this.#isNews(page, this.#content(page - first))) page++
        if (page > start) {
          const bytes = this.#buffer.subarray((start - first) * PAGE_BYTES, (page - first) * PAGE_BYTES)
          yield { first: start, bytes }
        }
        // The one that ended the run is no news.
        page++
      }
    }
  }

  #isNews(page: PageIndex, content: Uint8Array): boolean {
    if (!this.#hashes.update(page, content)) return false
    this.#given.add(page)
    return true
  }

  #content(slot: number): Uint8Array {
    return this.#buffer.subarray(slot * PAGE_BYTES, (slot + 1) * PAGE_BYTES)
  }
}
