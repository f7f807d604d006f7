import { CHUNK_PAGES, type PageIndex } from '../domain/page.ts'
import { type ChunkHashes, MAX_HASHED_CHUNKS, MAX_REQUESTED_PAGES } from '../wire/template-messages.ts'
import { pagesOf } from './chunk-pages.ts'
import { HASH_BYTES } from './hashing.ts'
import { keyOf, type PageLocation } from './page-index.ts'

/** Chunks that may be listed and wait for their pages: what is held of them is some KB each. */
const MAX_LISTED_AHEAD = 256
/** A provider that takes longer for a share than this, and far longer than it did before, loses it. */
const STALL_MS = 3_000
const STALL_FACTOR = 4
/** How many may be asked for the same share. */
const MAX_ASKED = 2

/** A chunk whose list of page hashes is known. */
export interface ListedChunk {
  chunk: number
  /** Its pages that aren't zeros, 0..255, ascending. */
  pages: readonly number[]
  /** How the hash of each begins: see keyOf(). */
  keys: readonly number[]
  /** All of the hashes, once they were proved by the chunk's hash. */
  proved: Buffer | null
  /** Who said so. */
  lister: string
  /** Where pages may be had on this node, by page. */
  local: Map<number, PageLocation>
  /** Pages that were thought to be on this node, and are something else. */
  mustTravel: Set<number>
}

/** What one request asks for. */
export type Share =
  | { kind: 'lists'; chunks: number[] }
  | { kind: 'pages'; chunks: ListedChunk[]; wanted: WantedOfChunk[] }

export interface WantedOfChunk {
  chunk: ListedChunk
  /** Pages to ask for, 0..255. */
  pages: number[]
}

interface InFlight {
  share: Share
  askedOf: Map<string, { sinceMs: number; expectedMs: number }>
}

/**
 * What to ask of whom. Every provider takes a share whenever it has room for
 * one, so a fast one takes more. Pure: no clock, no network, no disk.
 *
 *     unlisted ──lists──> listed ──pages──> complete
 *         ^                  ^       │
 *         └──────────────────┴───────┘  a share that failed
 *
 * Lists come first, but only some chunks ahead. When nothing is left to ask
 * for, what others have been asked for longest is asked for again: a slow
 * provider doesn't keep the end waiting, and a stalled one loses its share. Who
 * answers second is not listened to.
 */
export class FetchPlan {
  readonly #unlisted: number[]
  readonly #listed = new Map<number, ListedChunk>()
  readonly #inFlight = new Set<InFlight>()
  /** Answered, and not on disk yet. */
  readonly #assembling = new Set<Share>()
  /** Pages of complete chunks: a repeated page travels once. */
  readonly #here = new Map<number, PageIndex>()
  readonly #incomplete: Set<number>

  /** @param missing - chunks to fetch */
  constructor(missing: Iterable<number>) {
    this.#unlisted = [...missing].sort((a, b) => a - b)
    this.#incomplete = new Set(this.#unlisted)
  }

  get done(): boolean {
    return this.#incomplete.size === 0
  }

  isIncomplete(chunk: number): boolean {
    return this.#incomplete.has(chunk)
  }

  /** A page of a complete chunk whose hash begins so. */
  here(key: number): PageIndex | undefined {
    return this.#here.get(key)
  }

  /**
   * The next share of a provider; it is in flight then, until `settle`.
   *
   * @param expectedMs - what a share takes it
   * @returns null when there is nothing for it at the moment
   */
  take(peer: string, { nowMs, expectedMs }: { nowMs: number; expectedMs: number }): Share | null {
    const share = this.#nextLists() ?? this.#nextPages()
    const asked = { sinceMs: nowMs, expectedMs }
    if (share !== null) {
      this.#inFlight.add({ share, askedOf: new Map([[peer, asked]]) })
      return share
    }
    const again = this.#again(peer, nowMs, expectedMs)
    again?.askedOf.set(peer, asked)
    return again?.share ?? null
  }

  /**
   * A share was answered, or never will be by this provider.
   *
   * @returns whether the answer counts: false when another one's came first
   */
  settle(share: Share, peer: string, outcome: 'answered' | 'failed'): boolean {
    const flight = [...this.#inFlight].find((other) => other.share === share)
    if (flight === undefined) return false
    flight.askedOf.delete(peer)
    if (outcome === 'failed' && flight.askedOf.size > 0) return false
    this.#inFlight.delete(flight)
    if (outcome === 'failed') this.#takeBack(share)
    else if (share.kind === 'pages') this.#assembling.add(share)
    return true
  }

  /** Pages of a share that was answered are on disk, or listed again: until then who lacks one of them waits. */
  assembled(share: Share): void {
    this.#assembling.delete(share)
  }

  /** A chunk's list is known, or known better. */
  list(listed: ListedChunk): void {
    if (this.isIncomplete(listed.chunk)) this.#listed.set(listed.chunk, listed)
  }

  /** What is known of a chunk is wrong, or who said it can't be trusted. */
  unlist(chunk: number): void {
    this.#listed.delete(chunk)
    if (this.isIncomplete(chunk) && !this.#unlisted.includes(chunk)) this.#unlisted.push(chunk)
  }

  /** Forgets what a provider has said that nothing has proved yet. */
  distrust(peer: string): void {
    for (const { chunk, lister, proved } of this.#listed.values()) {
      if (lister === peer && proved === null) this.unlist(chunk)
    }
  }

  /**
   * A chunk is on disk.
   *
   * @param pageHashes - of all its pages
   */
  complete(chunk: number, pageHashes: Buffer): void {
    this.#incomplete.delete(chunk)
    this.#listed.delete(chunk)
    for (let page = 0; page < CHUNK_PAGES; page++) {
      this.#here.set(keyOf(pageHashes, page * HASH_BYTES), chunk * CHUNK_PAGES + page)
    }
  }

  #nextLists(): Share | null {
    if (this.#unlisted.length === 0 || this.#listed.size >= MAX_LISTED_AHEAD) return null
    const chunks = this.#unlisted.splice(0, MAX_HASHED_CHUNKS).sort((a, b) => a - b)
    return { kind: 'lists', chunks }
  }

  /** As many whole chunks as fit; one whose pages are on their way for another chunk waits for them. */
  #nextPages(): Share | null {
    const shares = [...[...this.#inFlight].map(({ share }) => share), ...this.#assembling]
    const travelling = new Set(
      shares.flatMap((share) =>
        share.kind === 'pages' ? share.wanted.flatMap(({ chunk, pages }) => keysOf(chunk, pages)) : [],
      ),
    )
    const wanted: WantedOfChunk[] = []
    const keys = new Set<number>()
    // Not keys.size: pages that must travel do so although they repeat.
    let count = 0
    for (const chunk of this.#listed.values()) {
      const pages = this.#lacking(chunk, keys)
      const lacking = keysOf(chunk, pages)
      if (lacking.some((key) => travelling.has(key))) continue
      if (count + pages.length > MAX_REQUESTED_PAGES) break
      for (const key of lacking) keys.add(key)
      count += pages.length
      wanted.push({ chunk, pages })
      if (count === MAX_REQUESTED_PAGES) break
    }
    if (wanted.length === 0) return null
    const ordered = wanted.toSorted((a, b) => a.chunk.chunk - b.chunk.chunk)
    const chunks = ordered.map(({ chunk }) => chunk)
    for (const { chunk } of chunks) this.#listed.delete(chunk)
    return { kind: 'pages', chunks, wanted: ordered.filter(({ pages }) => pages.length > 0) }
  }

  /** Pages that are neither here nor asked for already; of a page that repeats within the chunk, the first. */
  #lacking({ pages, keys, local, mustTravel }: ListedChunk, asked: ReadonlySet<number>): number[] {
    const own = new Set<number>()
    return pages.filter((page, i) => {
      const key = keys[i]!
      if (mustTravel.has(page)) return true
      if (local.has(page) || this.#here.has(key) || asked.has(key) || own.has(key)) return false
      own.add(key)
      return true
    })
  }

  /** What another was asked for that this one would have sooner, the oldest first. */
  #again(peer: string, nowMs: number, expectedMs: number): InFlight | null {
    for (const flight of this.#inFlight) {
      if (flight.askedOf.has(peer) || flight.askedOf.size >= MAX_ASKED) continue
      const isLate = [...flight.askedOf.values()].every((asked) => {
        const waitedMs = nowMs - asked.sinceMs
        return (
          asked.expectedMs - waitedMs > expectedMs ||
          waitedMs > Math.max(STALL_MS, STALL_FACTOR * asked.expectedMs)
        )
      })
      if (isLate) return flight
    }
    return null
  }

  #takeBack(share: Share): void {
    if (share.kind === 'lists')
      this.#unlisted.unshift(...share.chunks.filter((chunk) => this.isIncomplete(chunk)))
    else for (const chunk of share.chunks) this.list(chunk)
  }
}

/**
 * @param keys - of its pages' hashes, in the order of the bitmap
 * @param lister - who said it
 */
export function listedChunk(
  chunk: number,
  { bitmap }: Pick<ChunkHashes, 'bitmap'>,
  keys: readonly number[],
  lister: string,
): ListedChunk {
  const pages = pagesOf(bitmap)
  return { chunk, pages, keys, proved: null, lister, local: new Map(), mustTravel: new Set() }
}

function keysOf({ pages, keys }: ListedChunk, wanted: readonly number[]): number[] {
  return wanted.map((page) => keys[pages.indexOf(page)]!)
}
