import { open } from 'node:fs/promises'
import type { Level } from 'level'
import type { PageIndex as PageNumber } from '../domain/page.ts'
import { TEMPLATE_ID_PATTERN, type TemplateId } from '../domain/template.ts'
import { SHORT_HASH_BYTES } from '../wire/template-messages.ts'
import { CHUNK_HASHES_BYTES, HASH_BYTES, ZERO_PAGE_HASH } from './hashing.ts'

/** Where a page can be read. */
export interface PageLocation {
  id: TemplateId
  /** Counted over all chunks of that template. */
  page: PageNumber
}

/** How many entries go to the database in one write: 4,096 take some 10 ms. */
const BATCH_ENTRIES = 4096
/** Page hashes read at a time. */
const READ_BYTES = 64 * CHUNK_HASHES_BYTES

const NONE: ReadonlySet<number> = new Set()

/**
 * Finds a page by the start of its hash in any template of this node: sublevel
 * `pages`, 5 bytes of the hash → where. One place per page is enough, so the
 * later of two templates that share one is the one that is named.
 *
 * It only says where to look. Whoever reads a page there hashes it before it
 * is used, so an entry that is missing or stale costs a transfer, nothing else;
 * therefore nothing here is synced. 21,000 pages take 0.2 s to enter, 8,000 are
 * looked up in 30 ms.
 */
export class PageIndex {
  readonly #pages
  readonly #indexed
  /** Changes follow each other; who looks something up waits for those before. */
  #turn: Promise<unknown> = Promise.resolve()

  /** @param components.db - the agent's database; sublevels `pages` and `indexed` are this one's */
  constructor(components: { db: Level<string, unknown> }) {
    this.#pages = components.db.sublevel<Uint8Array, string>('pages', {
      keyEncoding: 'buffer',
      valueEncoding: 'utf8',
    })
    this.#indexed = components.db.sublevel<string, boolean>('indexed', { valueEncoding: 'json' })
  }

  /**
   * After a start: enters templates that are new to the index, and takes out
   * what is left of those that are gone. In the background.
   */
  reconcile(templates: readonly { id: TemplateId; pageHashesPath: string }[]): void {
    this.#after(async () => {
      const indexed = new Set(await this.#indexed.keys().all())
      for (const { id, pageHashesPath } of templates) {
        // One that is gone, or can't be read, keeps no other from its turn.
        if (!indexed.delete(id)) await this.#add(id, pageHashesPath).catch(() => {})
      }
      if (indexed.size > 0) await this.#purge(indexed)
    })
  }

  /** Enters a template's pages, in the background. */
  add(id: TemplateId, pageHashesPath: string): void {
    this.#after(() => this.#add(id, pageHashesPath))
  }

  /**
   * Takes a template's pages out, in the background. Those that others share
   * with it are named at one of them then.
   */
  remove(id: TemplateId, others: readonly { id: TemplateId; pageHashesPath: string }[]): void {
    this.#after(async () => {
      const gone = await this.#purge(new Set([id]))
      for (const other of others) await this.#put(other.id, other.pageHashesPath, gone).catch(() => {})
    })
  }

  /**
   * @param keys - see `keyOf`
   * @returns for each, where a page may be whose hash begins so
   */
  async find(keys: readonly number[]): Promise<(PageLocation | undefined)[]> {
    await this.#turn
    const values = await this.#pages.getMany(keys.map(bytesOf))
    return values.map((value) => (value === undefined ? undefined : locationOf(value)))
  }

  /** Resolves when changes under way are done. */
  async settled(): Promise<void> {
    await this.#turn
  }

  async #add(id: TemplateId, path: string): Promise<void> {
    await this.#put(id, path, null)
    await this.#indexed.put(id, true)
  }

  /** @param only - keys to enter; null: all */
  async #put(id: TemplateId, path: string, only: ReadonlySet<number> | null): Promise<void> {
    if (only?.size === 0) return
    const entries = new Map<number, string>()
    const flush = async (): Promise<void> => {
      await this.#pages.batch(
        [...entries].map(([key, value]) => ({ type: 'put', key: bytesOf(key), value }) as const),
      )
      entries.clear()
    }
    let page = 0
    for await (const hash of readHashes(path)) {
      const key = keyOf(hash)
      if (!ZERO_PAGE_HASH.equals(hash) && (only?.has(key) ?? true)) entries.set(key, `${page} ${id}`)
      if (entries.size === BATCH_ENTRIES) await flush()
      page++
    }
    await flush()
  }

  /** @returns the keys that were taken out */
  async #purge(ids: ReadonlySet<TemplateId>): Promise<ReadonlySet<number>> {
    if (ids.size === 0) return NONE
    const gone = new Set<number>()
    for await (const [key, value] of this.#pages.iterator()) {
      const location = locationOf(value)
      if (location === undefined || ids.has(location.id)) gone.add(keyOf(Buffer.from(key)))
    }
    const keys = [...gone]
    for (let at = 0; at < keys.length; at += BATCH_ENTRIES) {
      await this.#pages.batch(
        keys.slice(at, at + BATCH_ENTRIES).map((key) => ({ type: 'del', key: bytesOf(key) }) as const),
      )
    }
    await this.#indexed.batch([...ids].map((key) => ({ type: 'del', key }) as const))
    return gone
  }

  /** A failure leaves less in the index than could be there, and the next start tries again. */
  #after(change: () => Promise<void>): void {
    this.#turn = this.#turn.then(change).catch(() => {})
  }
}

/** A hash's first SHORT_HASH_BYTES as a number: 40 bits, so exact, and a cheap key of a Map. */
export function keyOf(hash: Buffer, at = 0): number {
  return hash.readUIntBE(at, SHORT_HASH_BYTES)
}

function bytesOf(key: number): Buffer {
  const bytes = Buffer.allocUnsafe(SHORT_HASH_BYTES)
  bytes.writeUIntBE(key, 0, SHORT_HASH_BYTES)
  return bytes
}

function locationOf(value: string): PageLocation | undefined {
  const [page = '', id = ''] = value.split(' ')
  return TEMPLATE_ID_PATTERN.test(id) ? { id, page: Number(page) } : undefined
}

async function* readHashes(path: string): AsyncGenerator<Buffer> {
  await using file = await open(path)
  const buffer = Buffer.allocUnsafe(READ_BYTES)
  for (;;) {
    const { bytesRead } = await file.read(buffer, 0, READ_BYTES)
    if (bytesRead < HASH_BYTES) return
    for (let at = 0; at + HASH_BYTES <= bytesRead; at += HASH_BYTES)
      yield buffer.subarray(at, at + HASH_BYTES)
  }
}
