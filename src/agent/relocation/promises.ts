import type { PeerIdText } from '../../domain/vm.ts'

/** Longer than any beat of a mesh in which announcements are worth anything: nothing is promised for good. */
const FORGOTTEN_MS = 10 * 60_000

interface Promised {
  bytes: number
  /** When it was there; null while it is on its way. */
  arrivedAtMs: number | null
}

export interface PromisedMemory {
  bytes: number
  /** VMs that have set out and are not there yet. */
  onTheirWay: number
}

/**
 * Memory of other nodes that VMs of this one are on their way to take, or have
 * taken since those nodes said how much they have.
 */
export class Promises {
  readonly #promised = new Map<PeerIdText, Set<Promised>>()

  /** A VM sets out. @returns what its end is told to */
  begin(peer: PeerIdText, bytes: number): { arrived: (nowMs: number) => void; failed: () => void } {
    const promised: Promised = { bytes, arrivedAtMs: null }
    const ofPeer = this.#promised.get(peer) ?? new Set()
    this.#promised.set(peer, ofPeer.add(promised))
    return {
      arrived: (nowMs) => {
        promised.arrivedAtMs = nowMs
      },
      failed: () => void ofPeer.delete(promised),
    }
  }

  /**
   * What isn't in a peer's own count of its memory yet, as far as is known.
   *
   * @param saidAtMs - when its count came here
   */
  to(peer: PeerIdText, { saidAtMs, nowMs }: { saidAtMs: number; nowMs: number }): PromisedMemory {
    const ofPeer = this.#promised.get(peer) ?? new Set()
    for (const promised of ofPeer) {
      const { arrivedAtMs } = promised
      if (arrivedAtMs !== null && (arrivedAtMs < saidAtMs || arrivedAtMs + FORGOTTEN_MS < nowMs)) {
        ofPeer.delete(promised)
      }
    }
    const promised = [...ofPeer]
    return {
      bytes: promised.reduce((sum, { bytes }) => sum + bytes, 0),
      onTheirWay: promised.filter(({ arrivedAtMs }) => arrivedAtMs === null).length,
    }
  }
}
