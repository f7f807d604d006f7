import { PAGE_BYTES } from '../domain/page.ts'
import type { TemplateId } from '../domain/template.ts'
import { countWanted, type WantedPages } from './chunk-pages.ts'
import { TemplateContent } from './content.ts'
import { partSpans } from './layout.ts'
import { decompressBytes } from './pages-data.ts'
import type { TemplateStore } from './store.ts'

/**
 * RAM of another template that both ends of a fetch have: what is lacking is
 * often the same place with a few words changed, and travels as the difference:
 * 124 KB, hashes included, for a template that one derived from it is beside,
 * in place of 207.
 */
export class SimilarPages implements AsyncDisposable {
  readonly id: TemplateId
  readonly #ram: TemplateContent
  readonly #ramChunks: number
  #isSound = true

  private constructor(id: TemplateId, ram: TemplateContent, ramChunks: number) {
    this.id = id
    this.#ram = ram
    this.#ramChunks = ramChunks
  }

  /** @returns null when it isn't here, or can't be opened */
  static async open(store: TemplateStore, id: TemplateId): Promise<SimilarPages | null> {
    if (!store.has(id)) return null
    const spans = partSpans(store.get(id).manifest).filter(({ part }) => part === 'ram')
    const ram = await TemplateContent.open(store.files(id), spans).catch(() => null)
    return ram === null ? null : new SimilarPages(id, ram, spans[0]!.endChunk)
  }

  /** Whether differences to it were what they should be so far. */
  get isSound(): boolean {
    return this.#isSound
  }

  /**
   * Its pages at the same places, joined; zeros beyond its RAM.
   *
   * @param wanted - chunks ascending: those of RAM come first
   */
  async read(wanted: readonly WantedPages[]): Promise<Buffer> {
    const bytes = Buffer.alloc(countWanted(wanted) * PAGE_BYTES)
    const inRam = wanted.filter(({ chunk }) => chunk < this.#ramChunks)
    await this.#ram.readWanted(inRam, bytes)
    return bytes
  }

  /**
   * What a difference to it stands for.
   *
   * @returns null when it stands for nothing: whoever made it lies, or has other pages in this template than are
   *   here, as one of both is damaged. From then on it isn't sound
   */
  async decode(difference: Uint8Array, wanted: readonly WantedPages[]): Promise<Buffer | null> {
    const dictionary = await this.read(wanted).catch(() => null)
    const pages =
      dictionary === null ? null : await decompressBytes(difference, dictionary.length, { dictionary })
    this.#isSound &&= pages !== null
    return pages
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#ram.close()
  }
}
