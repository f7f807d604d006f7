import {
  type ClassifiedPage,
  classifyPage,
  MAX_BATCH_PAGES,
  type PageHashes,
  type TemplatePages,
} from '../codec/index.ts'
import { PageBitmap } from '../domain/bitmap.ts'
import { isZeroPage, PAGE_BYTES, type PageIndex } from '../domain/page.ts'
import type { DirtyTracker, GuestMemory } from '../memory/index.ts'

/**
 * What a round takes out of a running guest. Example of an idle clone of
 * 131,072 pages:
 *
 *     round  private  read  changed  omitted  sent
 *       1        88    88       88       21     67
 *       2        90    90        5        0      5
 *     last       90    90        2        0      2
 *
 * A private page is read; it travels if its hash differs from what was last
 * seen. One that still equals the template, and was never sent otherwise, is
 * left out: the destination has it, shared. A page that was sent and is
 * private no more holds the template's content again, which the destination
 * must restore; reading it gives just that, so it needs no case of its own.
 */
export class Capture {
  /** Pages the destination holds from us, in any encoding. */
  readonly sent: PageBitmap
  /** Private pages at the last look. */
  private: PageBitmap
  /** Private pages left out because they equal the template. */
  readonly omitted: PageBitmap

  readonly #memory: GuestMemory
  readonly #tracker: DirtyTracker
  readonly #template: TemplatePages
  readonly #hashes: PageHashes
  // Reused by every round, so that the last one allocates nothing large.
  readonly #read = Buffer.alloc(MAX_BATCH_PAGES * PAGE_BYTES)
  readonly #batch = Buffer.alloc(MAX_BATCH_PAGES * PAGE_BYTES)
  readonly #templates = Buffer.alloc(MAX_BATCH_PAGES * PAGE_BYTES)

  constructor(components: {
    memory: GuestMemory
    tracker: DirtyTracker
    template: TemplatePages
    hashes: PageHashes
  }) {
    this.#memory = components.memory
    this.#tracker = components.tracker
    this.#template = components.template
    this.#hashes = components.hashes
    this.sent = new PageBitmap(this.#memory.pages)
    this.omitted = new PageBitmap(this.#memory.pages)
    this.private = new PageBitmap(this.#memory.pages)
  }

  /**
   * One round: batches of pages that changed since they were last seen, with
   * their encodings chosen. A batch's contents are valid until the next is
   * asked for.
   */
  async *round(): AsyncGenerator<ClassifiedPage[]> {
    const found = await this.#tracker.next()
    this.private = found.private
    const candidates = found.candidates.clone()
    candidates.addAll(this.sent.without(found.private))
    let batch: ClassifiedPage[] = []
    for (const run of candidates.runs(MAX_BATCH_PAGES)) {
      this.#memory.read(run, this.#read)
      for (let index = run.first; index < run.end; index++) {
        const offset = (index - run.first) * PAGE_BYTES
        const page = this.#classify(index, this.#read.subarray(offset, offset + PAGE_BYTES), batch.length)
        if (page === null) continue
        batch.push(page)
        if (batch.length === MAX_BATCH_PAGES) {
          yield batch
          batch = []
        }
      }
    }
    if (batch.length > 0) yield batch
  }

  /** The page as it has to travel, copied to its place in the batch; null when the destination has it already. */
  #classify(index: PageIndex, content: Uint8Array, slot: number): ClassifiedPage | null {
    if (!this.#hashes.update(index, content)) return null
    const template = this.#template.page(index)
    const encoding = classifyPage(content, template)
    const isTemplate = encoding === 'template' || (encoding === 'zero' && isZeroPage(template))
    if (isTemplate && !this.sent.has(index)) {
      this.omitted.add(index)
      return null
    }
    this.sent.add(index)
    this.omitted.delete(index)
    return {
      index,
      encoding,
      content: place(this.#batch, slot, content),
      template: encoding === 'xor' ? place(this.#templates, slot, template) : template,
    }
  }
}

function place(buffer: Buffer, slot: number, page: Uint8Array): Uint8Array {
  const target = buffer.subarray(slot * PAGE_BYTES, (slot + 1) * PAGE_BYTES)
  target.set(page)
  return target
}
