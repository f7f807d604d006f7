import { PAGE_BYTES, type PageIndex } from '../domain/page.ts'
import { ENCODINGS, type Encoding } from './classify.ts'
import type { Compression } from './compression.ts'
import { MAX_BATCH_PAGES, type PageGroup, REFERENCE_BYTES } from './page-group.ts'
import { compressHere } from './zstd.ts'

/**
 * zstd below level 3 hardly finds anything in a dictionary larger than its hash
 * table: 72 KB of pages that level 3 makes 8.5 KB of.
 */
export const MIN_DELTA_LEVEL = 3

/**
 * Gathers the pages of one batch, group by group, and encodes them. Reused
 * from batch to batch: its buffers take 4 MiB.
 */
export class BatchEncoder {
  readonly #contents = {
    raw: Buffer.alloc(MAX_BATCH_PAGES * PAGE_BYTES),
    zstd: Buffer.alloc(MAX_BATCH_PAGES * PAGE_BYTES),
    delta: Buffer.alloc(MAX_BATCH_PAGES * PAGE_BYTES),
  }
  /** The template's pages behind those of `delta`. */
  readonly #templates = Buffer.alloc(MAX_BATCH_PAGES * PAGE_BYTES)
  readonly #references = Buffer.alloc(MAX_BATCH_PAGES * REFERENCE_BYTES)
  #indices = noIndices()
  #pages = 0

  get pages(): number {
    return this.#pages
  }

  /**
   * Takes a page, after all with a lower index. It is copied.
   *
   * @param template - the template's page, for `delta`
   */
  add(
    index: PageIndex,
    encoding: Exclude<Encoding, 'reference'>,
    content: Uint8Array,
    template: Uint8Array,
  ): void {
    if (encoding !== 'zero' && encoding !== 'template') {
      place(this.#contents[encoding], this.#indices[encoding].length, content)
      if (encoding === 'delta') place(this.#templates, this.#indices.delta.length, template)
    }
    this.#count(index, encoding)
  }

  /** Takes a page that the destination has elsewhere. */
  addReference(index: PageIndex, hash: Uint8Array): void {
    this.#references.set(hash, this.#indices.reference.length * REFERENCE_BYTES)
    this.#count(index, 'reference')
  }

  /** Forgets what was taken: who took it has failed midway. */
  clear(): void {
    this.#indices = noIndices()
    this.#pages = 0
  }

  /**
   * Encodes what was taken since the last time, and is empty then. Data may be
   * views on what the next pages are copied to: they are valid until then.
   *
   * @param compression - chose the level, and is told what it cost and gained
   */
  take(compression: Compression): PageGroup[] {
    const indices = this.#indices
    this.clear()
    return ENCODINGS.filter((encoding) => indices[encoding].length > 0).map((encoding) => ({
      encoding,
      indices: indices[encoding],
      data: this.#encode(encoding, indices[encoding].length, compression),
    }))
  }

  #encode(encoding: Encoding, pages: number, compression: Compression): Uint8Array {
    const bytes = pages * PAGE_BYTES
    switch (encoding) {
      case 'zero':
      case 'template':
        return new Uint8Array(0)
      case 'raw':
        return this.#contents.raw.subarray(0, bytes)
      case 'zstd':
        return this.#compress(this.#contents.zstd.subarray(0, bytes), compression)
      case 'delta':
        return compressHere(
          this.#contents.delta.subarray(0, bytes),
          Math.max(compression.level, MIN_DELTA_LEVEL),
          {
            dictionary: this.#templates.subarray(0, bytes),
          },
        )
      case 'reference':
        return this.#references.subarray(0, pages * REFERENCE_BYTES)
    }
  }

  #compress(contents: Uint8Array, compression: Compression): Uint8Array {
    const startedMs = performance.now()
    const compressed = compressHere(contents, compression.level)
    compression.observe(contents.length, compressed.length, performance.now() - startedMs)
    return compressed
  }

  #count(index: PageIndex, encoding: Encoding): void {
    this.#indices[encoding].push(index)
    this.#pages++
  }
}

function noIndices(): Record<Encoding, PageIndex[]> {
  return { zero: [], template: [], raw: [], zstd: [], delta: [], reference: [] }
}

function place(buffer: Buffer, slot: number, page: Uint8Array): void {
  buffer.set(page, slot * PAGE_BYTES)
}
