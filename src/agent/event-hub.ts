import type { EventReply } from './api-schema.ts'

/** A day of a busy node, some 200 KB: who reads slower than that misses the oldest. */
const RING_EVENTS = 1024

/** What happened, before it has its number and time. */
export interface EventBody {
  kind: string
  [field: string]: unknown
}

/**
 * Everything that happens on this node, in order. Each reader has its own
 * place in one bounded ring, so no reader can make the agent keep more.
 */
export class EventHub {
  readonly #ring: EventReply[] = []
  #nextSeq = 1
  #wake = Promise.withResolvers<void>()

  publish(event: EventBody): void {
    this.#ring.push({ seq: this.#nextSeq++, atMs: Date.now(), ...event })
    if (this.#ring.length > RING_EVENTS) this.#ring.shift()
    this.#wakeReaders()
  }

  /**
   * Events from now on, or with `recent` from the ring's oldest, until the
   * signal. A reader that fell behind gets one `events-missed` with their count.
   */
  async *read({ recent, signal }: { recent: boolean; signal: AbortSignal }): AsyncGenerator<EventReply> {
    let next = recent ? (this.#ring[0]?.seq ?? this.#nextSeq) : this.#nextSeq
    const stop = () => this.#wakeReaders()
    signal.addEventListener('abort', stop, { once: true })
    try {
      while (!signal.aborted) {
        const oldest = this.#ring[0]?.seq ?? this.#nextSeq
        if (oldest > next) {
          yield { seq: oldest - 1, atMs: Date.now(), kind: 'events-missed', count: oldest - next }
          next = oldest
        } else if (next < this.#nextSeq) {
          yield this.#ring[next - oldest]!
          next++
        } else {
          await this.#wake.promise
        }
      }
    } finally {
      signal.removeEventListener('abort', stop)
    }
  }

  /** A fresh promise each time: waiting on a resolved one would spin. */
  #wakeReaders(): void {
    const { resolve } = this.#wake
    this.#wake = Promise.withResolvers<void>()
    resolve()
  }
}
