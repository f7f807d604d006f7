import { setTimeout as sleep } from 'node:timers/promises'

/** A timer that comes so late still counts as on time: else every batch would lose a part of the rate. */
const TIMER_LATE_MS = 20
/** The longest that a batch waits for the blackout of another VM: one that lasts longer isn't made short by that. */
const MAX_HELD_MS = 1_000

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
  readonly #bytesPerMs: number
  #freeAtMs = 0
  #blackouts = 0
  #over = Promise.withResolvers<void>()

  /** @param bytesPerSecond - null: no limit */
  constructor(bytesPerSecond: number | null) {
    this.#bytesPerMs = bytesPerSecond === null ? Number.POSITIVE_INFINITY : bytesPerSecond / 1000
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
        this.#freeAtMs = startMs + bytes / this.#bytesPerMs
        return heldMs
      }
      // Another one may be first then: looked at again.
      await sleep(-lateMs, undefined, { signal })
    }
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
