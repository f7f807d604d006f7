import { PAGE_BYTES, type PageIndex } from '../domain/page.ts'
import { isGuestWritable, readStateFile, type StateBlock } from '../qemu/index.ts'

/** A RAM block besides main RAM that the guest may write, such as a VGA's memory, and what it holds in the template. */
export type ExtraBlock = StateBlock

/** Those of a template: both sides of a move have it, and so the same ones in the same order. */
export function extraBlocksOf(templateState: Buffer): ExtraBlock[] {
  return readStateFile(templateState).blocks.filter(({ name }) => isGuestWritable(name))
}

interface Placed {
  name: string
  first: PageIndex
  end: PageIndex
  /** By their number in the block; what isn't here is zero. */
  pages: ReadonlyMap<number, Uint8Array | null>
}

/**
 * Gives the pages of such blocks indices of their own, behind those of main RAM:
 *
 *     0 ... 65535     ram0
 *     65536 ... 69631 the first extra block, here of 16 MiB
 *     69632 ...       the next
 */
export class ExtraBlocks {
  /** In all of them. */
  readonly pages: number
  readonly #ramPages: number
  readonly #blocks: readonly Placed[]

  constructor(ramPages: number, blocks: readonly ExtraBlock[]) {
    let next = ramPages
    this.#ramPages = ramPages
    this.#blocks = blocks.map(({ name, usedBytes, pages }) => {
      const first = next
      next += Math.ceil(usedBytes / PAGE_BYTES)
      return {
        name,
        first,
        end: next,
        pages: new Map(pages.map(({ offsetBytes, content }) => [offsetBytes / PAGE_BYTES, content])),
      }
    })
    this.pages = next - ramPages
  }

  /**
   * Index of a page of a block; null for a block that is none of these.
   *
   * @throws RangeError beyond the block's end
   */
  indexOf(name: string, page: number): PageIndex | null {
    const block = this.#blocks.find((each) => each.name === name)
    if (block === undefined) return null
    if (block.first + page >= block.end) throw new RangeError(`no page ${page} in RAM block ${name}`)
    return block.first + page
  }

  /** Where a page lies; null: in main RAM. @throws RangeError beyond the last one */
  placeOf(index: PageIndex): { name: string; page: number } | null {
    if (index < this.#ramPages) return null
    const { name, first } = this.#blockOf(index)
    return { name, page: index - first }
  }

  /** What the template holds there. */
  read(index: PageIndex, into: Uint8Array): void {
    const { first, pages } = this.#blockOf(index)
    const content = pages.get(index - first)
    if (content == null) into.fill(0)
    else into.set(content)
  }

  #blockOf(index: PageIndex): Placed {
    const block = this.#blocks.find(({ end }) => index < end)
    if (block === undefined) throw new RangeError(`page ${index} is in no RAM block`)
    return block
  }
}
