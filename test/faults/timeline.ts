/**
 * The life of one guest, as its beats tell it. The guest says a number aloud
 * every 50 ms, and the number is in its memory: it moves with the guest. Pure.
 *
 *     node a   1 2 3 4 5 6 7                      one guest, moved after 7
 *     node b                 8 9 10 11
 *
 *     node a   1 2 3 4 5 6 7 8 9                  two of it: both remember 7, both say 8
 *     node b                 8 9 10
 *
 *     node a   1 2 3 4 5 6 7      5 6             its memory went back
 */
export interface Beat {
  /** Node and QEMU that it came from. */
  from: string
  count: number
  atMs: number
}

export type Anomaly =
  | { kind: 'double-run'; first: Beat; second: Beat }
  | { kind: 'went-back'; before: Beat; after: Beat }

export class Timeline {
  readonly #seen = new Map<number, Beat>()
  #highest: Beat | null = null
  #last: Beat | null = null
  /** The first one of each kind says it all. */
  readonly anomalies: Anomaly[] = []

  get last(): Beat | null {
    return this.#last
  }

  add(beat: Beat): void {
    const same = this.#seen.get(beat.count)
    if (same !== undefined) {
      this.#found(
        same.from === beat.from
          ? { kind: 'went-back', before: this.#highest!, after: beat }
          : { kind: 'double-run', first: same, second: beat },
      )
    } else if (this.#highest !== null && beat.count < this.#highest.count) {
      this.#found({ kind: 'went-back', before: this.#highest, after: beat })
    }
    this.#seen.set(beat.count, beat)
    this.#last = beat
    if (this.#highest === null || beat.count > this.#highest.count) this.#highest = beat
  }

  #found(anomaly: Anomaly): void {
    if (!this.anomalies.some(({ kind }) => kind === anomaly.kind)) this.anomalies.push(anomaly)
  }
}
