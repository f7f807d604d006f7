import { MAX_PAGES_FRAME_BYTES } from '../../wire/pages-frame-bounds.ts'

/**
 * Memory that the agent's own thread and a page thread share, for what goes
 * between them: a frame of pages each, used over and over. Nothing is copied
 * for the crossing, and nothing is left for V8 to collect: a move of 48 MiB
 * through fresh buffers had it collect for 190 ms at either side.
 */
export type Slots = readonly SharedArrayBuffer[]

/** Slots that nobody uses: whoever needs one waits until another has given his back. */
export class FreeSlots {
  readonly #free: number[]
  readonly #waiting: ((slot: number) => void)[] = []

  constructor(slots: Slots) {
    this.#free = [...slots.keys()]
  }

  async take(): Promise<number> {
    const slot = this.#free.pop()
    if (slot !== undefined) return slot
    const { promise, resolve } = Promise.withResolvers<number>()
    this.#waiting.push(resolve)
    return promise
  }

  give(slot: number): void {
    const next = this.#waiting.shift()
    if (next === undefined) this.#free.push(slot)
    else next(slot)
  }
}

export function makeSlots(count: number): Slots {
  return Array.from({ length: count }, () => new SharedArrayBuffer(MAX_PAGES_FRAME_BYTES))
}
