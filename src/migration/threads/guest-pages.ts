import type { PageBitmap } from '../../domain/bitmap.ts'
import type { PageIndex } from '../../domain/page.ts'
import type { GuestMemory } from '../../memory/index.ts'

/** Where a capture gets the guest's pages from. */
export interface GuestPages {
  /** Of guest RAM, and of other blocks that the guest may write: see ExtraBlocks. */
  readonly pages: number
  /** Null: it isn't read. */
  readonly memory: GuestMemory | null
  /** Null: it isn't among what is shown, or hasn't come yet. */
  readonly deviceState: Buffer | null
  /** A round begins. @param candidates - pages that may have changed, where it is asked which */
  begin(candidates: PageBitmap): void
  /** Resolves when there is something to show, or nothing came for a moment. */
  ready(): Promise<void>
  /**
   * Shows pages that may have changed, each once in a round, until `room` says that enough were taken.
   *
   * @param look - `content` and what `template` returns are valid until it returns
   * @param room - how many more pages may be taken
   * @returns whether nothing of this round is left
   */
  show(look: Look, room: () => number): boolean
  close(): Promise<void>
}

export type Look = (index: PageIndex, content: Uint8Array, template: () => Uint8Array) => void
