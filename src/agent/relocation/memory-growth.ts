import type { VmId } from '../../domain/vm.ts'

/** Shorter spans tell of one burst, not of a rate. */
const MIN_SPAN_MS = 2_000
/** Of the latest span: a guest that has warmed up is soon taken for calm. */
const LATEST_SHARE = 0.3
/** Of one that nobody asked for in so long, nothing is known any more. */
const FORGOTTEN_MS = 10 * 60_000

interface Seen {
  bytes: number
  atMs: number
  bytesPerSecond: number
}

/**
 * How fast memory of VMs' own grows: the least that they write, as pages that
 * are rewritten in place don't show from outside before a move scans them.
 */
export class MemoryGrowth {
  readonly #seen = new Map<VmId, Seen>()

  /**
   * Takes a measurement, and tells the rate, smoothed.
   *
   * @param bytes - of the VM's own, now
   */
  bytesPerSecond(id: VmId, bytes: number, nowMs: number): number {
    for (const [other, { atMs }] of this.#seen) if (atMs + FORGOTTEN_MS < nowMs) this.#seen.delete(other)
    const before = this.#seen.get(id)
    if (before === undefined) {
      this.#seen.set(id, { bytes, atMs: nowMs, bytesPerSecond: 0 })
      return 0
    }
    const spanMs = nowMs - before.atMs
    if (spanMs < MIN_SPAN_MS) return before.bytesPerSecond
    const latest = (Math.max(0, bytes - before.bytes) / spanMs) * 1000
    const bytesPerSecond = before.bytesPerSecond + LATEST_SHARE * (latest - before.bytesPerSecond)
    this.#seen.set(id, { bytes, atMs: nowMs, bytesPerSecond })
    return bytesPerSecond
  }
}
