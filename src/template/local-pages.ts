import { CHUNK_BYTES } from '../domain/page.ts'
import type { TemplateId } from '../domain/template.ts'
import { TemplateContent } from './content.ts'
import { partSpans } from './layout.ts'
import type { PageIndex, PageLocation } from './page-index.ts'
import type { TemplateStore } from './store.ts'

/** Where a chunk can be read. */
interface ChunkLocation {
  id: TemplateId
  chunk: number
}

/**
 * What the other templates of this node hold, for one that is being fetched.
 * Whatever is read here is hashed by the reader: a template may be damaged, or
 * go while it is read.
 */
export class LocalPages implements AsyncDisposable {
  readonly #store: TemplateStore
  readonly #index: PageIndex
  readonly #open = new Map<TemplateId, Promise<TemplateContent | null>>()

  constructor(components: { store: TemplateStore; index: PageIndex }) {
    this.#store = components.store
    this.#index = components.index
  }

  /** For each of these chunk hashes, where such a chunk is, if it is here. */
  findChunks(hashes: readonly Uint8Array[]): Map<number, ChunkLocation> {
    const wanted = new Map<string, number[]>()
    for (const [chunk, hash] of hashes.entries()) {
      const key = Buffer.from(hash).toString('latin1')
      wanted.set(key, [...(wanted.get(key) ?? []), chunk])
    }
    const found = new Map<number, ChunkLocation>()
    for (const { id, manifest } of this.#store.list()) {
      for (const [chunk, hash] of manifest.chunkHashes.entries()) {
        for (const index of wanted.get(Buffer.from(hash).toString('latin1')) ?? [])
          found.set(index, { id, chunk })
      }
    }
    return found
  }

  /** @returns false when it can't be read */
  readChunk({ id, chunk }: ChunkLocation, into: Buffer): Promise<boolean> {
    return this.#read(id, (content) => content.readChunk(chunk, into.subarray(0, CHUNK_BYTES)))
  }

  /**
   * An index that can't be read costs a transfer.
   *
   * @param keys - see keyOf()
   */
  find(keys: readonly number[]): Promise<(PageLocation | undefined)[]> {
    return this.#index.find(keys).catch(() => keys.map(() => undefined))
  }

  /** What can't be read stays as it is, and is found out by its hash. */
  async read({ id, page }: PageLocation, into: Buffer): Promise<void> {
    await this.#read(id, (content) => content.readPage(page, into))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const opened = await Promise.all(this.#open.values())
    await Promise.all(opened.map((content) => content?.close()))
  }

  async #read(id: TemplateId, work: (content: TemplateContent) => Promise<void>): Promise<boolean> {
    try {
      const content = await this.#content(id)
      if (content === null) return false
      await work(content)
      return true
    } catch {
      return false
    }
  }

  #content(id: TemplateId): Promise<TemplateContent | null> {
    const open = async (): Promise<TemplateContent | null> =>
      this.#store.has(id)
        ? TemplateContent.open(this.#store.files(id), partSpans(this.#store.get(id).manifest)).catch(
            () => null,
          )
        : null
    const opened = this.#open.get(id) ?? open()
    this.#open.set(id, opened)
    return opened
  }
}
