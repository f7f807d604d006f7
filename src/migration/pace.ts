import { setTimeout as sleep } from 'node:timers/promises'
import { PAGE_BYTES } from '../domain/page.ts'

/** A timer that comes so late still counts as on time: else every batch would lose a part of the rate. */
const TIMER_LATE_MS = 20
/** The longest that a batch waits for the blackout of another VM: one that lasts longer isn't made short by that. */
const MAX_HELD_MS = 1_000

/**
 * Bytes on the interface for each of a frame. At an MTU of 1500 it counts 1514
 * for 1448, 1.046; one that takes over segmentation, such as veth, about
 * 1.001, Noise and yamux included. The middle is within 2.5 % of both.
 */
const INTERFACE_BYTES_PER_BYTE = 1.023
/**
 * And for each frame, however short: its length, yamux's and Noise's headers, 34 bytes, and 66 of the packet that it
 * ends. Eight zero pages are a frame of 25 bytes.
 */
const INTERFACE_BYTES_PER_FRAME = 100
/** A frame leaves in one go: as long as this of a limited link is no burst to those who share it. */
const BATCH_MS = 20
/** Fewer aren't worth their frame; more than 1 MiB would not be faster. */
const [MIN_BATCH_PAGES, MAX_BATCH_PAGES] = [8, 256]

/** Pages to encode into one frame under a limit; null: no limit. */
export function batchPages(bytesPerSecond: number | null): number {
  if (bytesPerSecond === null) return MAX_BATCH_PAGES
  const pages = Math.floor((bytesPerSecond * BATCH_MS) / 1000 / PAGE_BYTES)
  return Math.min(Math.max(pages, MIN_BATCH_PAGES), MAX_BATCH_PAGES)
}

export interface PaceWait {
  signal: AbortSignal
  /** The guest stands still: its bytes go before those of guests that run. */
  urgent: boolean
}

/**
 * Keeps the pages of moves that go side by side at or below one rate, without
 * saving up unused time, and lets them give way to each other: while one guest
 * stands still, the others' batches of 1 MiB stay off the link.
 */
export class Pace {
  /** As it was asked for; null: no limit. */
  readonly bytesPerSecond: number | null
  /** What frames may take of the link; Infinity without a limit. */
  readonly bytesPerMs: number
  /** Pages that a frame should hold, so that it's no burst. */
  readonly batchPages: number
  #freeAtMs = 0
  #blackouts = 0
  #over = Promise.withResolvers<void>()

  /** @param bytesPerSecond - counted at the interface; null: no limit */
  constructor(bytesPerSecond: number | null) {
    this.bytesPerSecond = bytesPerSecond
    this.bytesPerMs =
      bytesPerSecond === null ? Number.POSITIVE_INFINITY : bytesPerSecond / 1000 / INTERFACE_BYTES_PER_BYTE
    this.batchPages = batchPages(bytesPerSecond)
  }

  /** A guest stands still, until the result is disposed. */
  blackout(): Disposable {
    this.#blackouts++
    const running = new DisposableStack()
    running.defer(() => {
      this.#blackouts--
      if (this.#blackouts > 0) return
      const over = this.#over
      this.#over = Promise.withResolvers<void>()
      over.resolve()
    })
    return running
  }

  /**
   * Resolves when `bytes` more may be sent.
   *
   * @returns milliseconds that were spent giving way to another guest's blackout
   * @throws the signal's reason
   */
  async wait(bytes: number, { signal, urgent }: PaceWait): Promise<number> {
    const heldMs = urgent ? 0 : await this.#giveWay(signal)
    for (;;) {
      const nowMs = performance.now()
      const lateMs = nowMs - this.#freeAtMs
      if (lateMs >= 0) {
        const startMs = lateMs <= TIMER_LATE_MS ? this.#freeAtMs : nowMs
        const onInterface = bytes === 0 ? 0 : bytes + INTERFACE_BYTES_PER_FRAME
        this.#freeAtMs = startMs + onInterface / this.bytesPerMs
        return heldMs
      }
      // Another one may be first then: looked at again.
      await sleep(-lateMs, undefined, { signal })
    }
  }

  /** Resolves when `bytes` that came already have had their time: for what others send, on demand. */
  async came(bytes: number, signal: AbortSignal): Promise<void> {
    await this.wait(bytes, { signal, urgent: true })
    await this.wait(0, { signal, urgent: true })
  }

  async #giveWay(signal: AbortSignal): Promise<number> {
    if (this.#blackouts === 0) return 0
    const startedMs = performance.now()
    const enough = new AbortController()
    try {
      const bounded = AbortSignal.any([signal, enough.signal])
      await Promise.race([this.#over.promise, sleep(MAX_HELD_MS, undefined, { signal: bounded })])
    } finally {
      enough.abort()
    }
    return performance.now() - startedMs
  }
}
