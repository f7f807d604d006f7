import { closeSync, openSync, readSync } from 'node:fs'
import type { TemplatePages } from '../codec/index.ts'
import type { PageRun } from '../domain/bitmap.ts'
import { PAGE_BYTES } from '../domain/page.ts'
import type { ExtraBlocks } from './extra-blocks.ts'

/**
 * A sealed template's memory. The running QEMUs keep the file in the page cache,
 * so a read is a copy, of 2 µs and 0.1 ms a MiB: synchronous, without a promise.
 */
export class TemplateRam implements TemplatePages, Disposable {
  readonly #fd: number
  readonly #ramPages: number
  readonly #extra: ExtraBlocks

  constructor({ path, ramPages, extra }: { path: string; ramPages: number; extra: ExtraBlocks }) {
    this.#fd = openSync(path, 'r')
    this.#ramPages = ramPages
    this.#extra = extra
  }

  /** @throws RangeError where the file ends before the run does */
  read({ first, end }: PageRun, into: Uint8Array): void {
    if (first >= this.#ramPages) {
      this.#readExtra({ first, end }, into)
      return
    }
    const bytes = (end - first) * PAGE_BYTES
    for (let done = 0; done < bytes; ) {
      const bytesRead = readSync(this.#fd, into, done, bytes - done, first * PAGE_BYTES + done)
      if (bytesRead === 0) throw new RangeError(`the template's RAM ends before page ${end}`)
      done += bytesRead
    }
  }

  #readExtra({ first, end }: PageRun, into: Uint8Array): void {
    for (let index = first; index < end; index++) {
      const at = (index - first) * PAGE_BYTES
      this.#extra.read(index, into.subarray(at, at + PAGE_BYTES))
    }
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd)
  }
}
