/** A guest's memory without a guest: pages in a buffer. */
import { randomFillSync } from 'node:crypto'
import type { PageRun } from '../../src/domain/bitmap.ts'
import { PAGE_BYTES } from '../../src/domain/page.ts'

export class BufferMemory {
  readonly pages: number
  readonly bytes: Buffer

  /** All zero. */
  constructor(pages: number) {
    this.pages = pages
    this.bytes = Buffer.alloc(pages * PAGE_BYTES)
  }

  /** Random content, but for the pages named. */
  static random(pages: number, { zeros = [] }: { zeros?: readonly number[] } = {}): BufferMemory {
    const memory = new BufferMemory(pages)
    randomFillSync(memory.bytes)
    for (const index of zeros) memory.page(index).fill(0)
    return memory
  }

  page(index: number): Buffer {
    return this.bytes.subarray(index * PAGE_BYTES, (index + 1) * PAGE_BYTES)
  }

  read({ first, end }: PageRun, into: Uint8Array): void {
    into.set(this.bytes.subarray(first * PAGE_BYTES, end * PAGE_BYTES))
  }
}
