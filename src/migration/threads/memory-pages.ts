import { MAX_BATCH_PAGES } from '../../codec/index.ts'
import { PageBitmap, type PageRun } from '../../domain/bitmap.ts'
import { PAGE_BYTES, type PageIndex } from '../../domain/page.ts'
import type { GuestMemory } from '../../memory/index.ts'
import type { TemplateRam } from '../template-ram.ts'
import type { GuestPages, Look } from './guest-pages.ts'

/** As much is looked at in one call, even where nothing has changed: 5 ms, then other jobs have their turn. */
const MAX_LOOK_PAGES = 4096

/** Shared by all jobs of a thread: no call finds in them what another has left. */
const contents = Buffer.alloc(MAX_BATCH_PAGES * PAGE_BYTES)
const templates = Buffer.alloc(MAX_BATCH_PAGES * PAGE_BYTES)

/** Pages read out of a running guest's memory. */
export class MemoryPages implements GuestPages {
  readonly memory: GuestMemory
  readonly deviceState = null
  readonly #template: TemplateRam
  /** To be looked at in this round, from #next on. */
  #candidates: PageBitmap
  #next: PageIndex = 0

  constructor(memory: GuestMemory, template: TemplateRam) {
    this.memory = memory
    this.#template = template
    this.#candidates = new PageBitmap(memory.pages)
  }

  get pages(): number {
    return this.memory.pages
  }

  begin(candidates: PageBitmap): void {
    this.#candidates = candidates
    this.#next = 0
  }

  async ready(): Promise<void> {}

  show(look: Look, room: () => number): boolean {
    let looked = 0
    while (room() > 0 && looked < MAX_LOOK_PAGES) {
      const run = this.#candidates.runFrom(this.#next, Math.min(room(), MAX_BATCH_PAGES))
      if (run === null) return true
      this.#showRun(run, look)
      this.#next = run.end
      looked += run.end - run.first
    }
    return this.#candidates.runFrom(this.#next, 1) === null
  }

  close(): Promise<void> {
    return this.memory.close()
  }

  #showRun(run: PageRun, look: Look): void {
    this.memory.read(run, contents)
    let hasTemplates = false
    for (let index = run.first; index < run.end; index++) {
      const slot = (index - run.first) * PAGE_BYTES
      look(index, contents.subarray(slot, slot + PAGE_BYTES), () => {
        if (!hasTemplates) this.#template.read(run, templates)
        hasTemplates = true
        return templates.subarray(slot, slot + PAGE_BYTES)
      })
    }
  }
}
