import { CHUNK_PAGES, PAGE_BYTES, type PageIndex } from '../domain/page.ts'
import type { FetchPlan, ListedChunk, WantedOfChunk } from './fetch-plan.ts'
import { CHUNK_HASHES_BYTES, chunkHash, HASH_BYTES, hashPages, ZERO_PAGE_HASH } from './hashing.ts'
import type { IncomingTemplate } from './incoming.ts'
import type { LocalPages } from './local-pages.ts'
import { keyOf } from './page-index.ts'

/** Pages that came with one answer. */
export class ReceivedPages {
  readonly #byPage = new Map<PageIndex, Buffer>()
  readonly #byKey = new Map<number, Buffer>()

  /** @param bytes - the wanted pages, joined in order */
  constructor(wanted: readonly WantedOfChunk[], bytes: Buffer) {
    let at = 0
    for (const { chunk, pages } of wanted) {
      for (const page of pages) {
        const content = bytes.subarray(at, at + PAGE_BYTES)
        this.#byPage.set(chunk.chunk * CHUNK_PAGES + page, content)
        this.#byKey.set(chunk.keys[chunk.pages.indexOf(page)]!, content)
        at += PAGE_BYTES
      }
    }
  }

  /** What came for this very page. */
  of(chunk: number, page: number): Buffer | undefined {
    return this.#byPage.get(chunk * CHUNK_PAGES + page)
  }

  /** What came for some page whose hash begins so. */
  like(key: number): Buffer | undefined {
    return this.#byKey.get(key)
  }
}

/** What came of putting a chunk together. */
export type Assembly =
  /** Although its list may have been wrong: whoever gave it can't be trusted then. */
  | { kind: 'complete'; isListRight: boolean }
  /** Pages that were thought to be on this node already are something else. */
  | { kind: 'mistaken'; pages: number[] }
  /** Its list is wrong, or a page that came: only all of the hashes tell which. */
  | { kind: 'wrong' }

/**
 * Puts a chunk together from pages that came, pages of other templates and
 * pages of its own template, hashes all of it, and keeps it if it is what the
 * manifest says.
 *
 * @param bytes - CHUNK_BYTES to put it together in
 */
export async function assembleChunk(
  listed: ListedChunk,
  received: ReceivedPages,
  bytes: Buffer,
  components: { incoming: IncomingTemplate; local: LocalPages; plan: FetchPlan },
): Promise<Assembly> {
  const { incoming, plan } = components
  bytes.fill(0)
  const guessed = new Set<number>()
  for (const [i, page] of listed.pages.entries()) {
    const into = bytes.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES)
    const came = received.of(listed.chunk, page)
    if (came !== undefined) {
      came.copy(into)
      continue
    }
    guessed.add(page)
    await readHere(listed, i, into, received, components)
  }
  const pageHashes = hashPages(bytes)
  if (chunkHash(pageHashes).equals(incoming.manifest.chunkHashes[listed.chunk]!)) {
    await incoming.write(listed.chunk, bytes, pageHashes)
    plan.complete(listed.chunk, pageHashes)
    return {
      kind: 'complete',
      isListRight: listed.pages.every((page) => isAsListed(listed, page, pageHashes)),
    }
  }
  const mistaken = [...guessed].filter((page) => !isAsListed(listed, page, pageHashes))
  return mistaken.length > 0 ? { kind: 'mistaken', pages: mistaken } : { kind: 'wrong' }
}

/** Whether a page is what the list says: for sure once the list is proved, up to its first bytes before. */
export function isAsListed({ pages, keys, proved }: ListedChunk, page: number, pageHashes: Buffer): boolean {
  const [start, end] = [page * HASH_BYTES, (page + 1) * HASH_BYTES]
  if (proved !== null) return pageHashes.compare(proved, start, end, start, end) === 0
  return keyOf(pageHashes, start) === keys[pages.indexOf(page)]
}

/** All hashes of a chunk, those of zero pages filled in. */
export function expandHashes(pages: readonly number[], hashes: Buffer): Buffer {
  const all = Buffer.alloc(CHUNK_HASHES_BYTES, ZERO_PAGE_HASH)
  for (const [i, page] of pages.entries())
    hashes.copy(all, page * HASH_BYTES, i * HASH_BYTES, (i + 1) * HASH_BYTES)
  return all
}

/** A page that didn't come for its own sake; where nothing is found it stays zeros, which its hash then shows. */
async function readHere(
  { keys, pages, local: locations }: ListedChunk,
  i: number,
  into: Buffer,
  received: ReceivedPages,
  { incoming, local, plan }: { incoming: IncomingTemplate; local: LocalPages; plan: FetchPlan },
): Promise<void> {
  const location = locations.get(pages[i]!)
  const like = received.like(keys[i]!)
  const own = plan.here(keys[i]!)
  if (location !== undefined) await local.read(location, into)
  else if (like !== undefined) like.copy(into)
  else if (own !== undefined) await incoming.readPage(own, into)
}
