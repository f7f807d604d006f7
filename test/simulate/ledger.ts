/**
 * What a policy cost. One unit for all of it, that of src/placement/calm.ts:
 * **ms·s**, a millisecond of round trip that a VM's users have, for a second. A
 * move costs what `moveCost` says of it (link, blackout, memory), for every policy
 * and for the optimum. Divided by the seconds that all VMs ran, a total is in ms.
 */
export interface Totals {
  policy: string
  /** Latency and moves, in ms: per VM and second. */
  totalMs: number
  /** Of that, what users had. */
  meanLatencyMs: number
  p95LatencyMs: number
  moves: number
  movesPerVmHour: number
  sentBytes: number
  /** Templates that didn't travel because the destination held them. */
  avoidedBytes: number
  /** Moves back to the node that the VM had left within RETURN_MS. */
  returns: number
  /** Of these, within the cool-down that the VM was in: a rule broken. */
  returnsInCoolDown: number
  /** Mean latency in each slice. */
  sliceLatencyMs: readonly number[]
}

/** Back within two slices. */
export const RETURN_MS = 600_000

export interface LedgerMove {
  vm: number
  from: number
  to: number
  atMs: number
  sentBytes: number
  avoidedBytes: number
  costMsS: number
}

export class Ledger {
  #latencyMsS = 0
  #moveMsS = 0
  #vmSeconds = 0
  #sentBytes = 0
  #avoidedBytes = 0
  #moves = 0
  #returns = 0
  #returnsInCoolDown = 0
  readonly #roundsMs: number[] = []
  readonly #lastMove = new Map<number, LedgerMove>()

  /** Sums by slice, for the plot. */
  readonly #slices: { latencyMsS: number; vmSeconds: number }[] = []

  /** Users of one VM had `latencyMs` for `ms`. */
  ran(slice: number, latencyMs: number, ms: number): void {
    const sums = this.#slices[slice] ?? { latencyMsS: 0, vmSeconds: 0 }
    this.#slices[slice] = sums
    sums.latencyMsS += (latencyMs * ms) / 1000
    sums.vmSeconds += ms / 1000
    this.#latencyMsS += (latencyMs * ms) / 1000
    this.#vmSeconds += ms / 1000
    if (ms > 0) this.#roundsMs.push(latencyMs)
  }

  /** @param coolDownMs - what was left of the VM's cool-down when the move began */
  moved(move: LedgerMove, coolDownMs = 0): void {
    const last = this.#lastMove.get(move.vm)
    if (last?.from === move.to && move.atMs - last.atMs <= RETURN_MS) {
      this.#returns++
      if (coolDownMs > 0) this.#returnsInCoolDown++
    }
    this.#lastMove.set(move.vm, move)
    this.#moves++
    this.#moveMsS += move.costMsS
    this.#sentBytes += move.sentBytes
    this.#avoidedBytes += move.avoidedBytes
  }

  totals(policy: string): Totals {
    const sorted = Float64Array.from(this.#roundsMs).sort()
    return {
      policy,
      totalMs: (this.#latencyMsS + this.#moveMsS) / this.#vmSeconds,
      meanLatencyMs: this.#latencyMsS / this.#vmSeconds,
      p95LatencyMs: sorted[Math.floor(0.95 * (sorted.length - 1))] ?? Number.NaN,
      moves: this.#moves,
      movesPerVmHour: (3600 * this.#moves) / this.#vmSeconds,
      sentBytes: this.#sentBytes,
      avoidedBytes: this.#avoidedBytes,
      returns: this.#returns,
      returnsInCoolDown: this.#returnsInCoolDown,
      sliceLatencyMs: this.#slices.map(({ latencyMsS, vmSeconds }) => latencyMsS / vmSeconds),
    }
  }
}
