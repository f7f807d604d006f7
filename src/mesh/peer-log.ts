import type { MeshLog } from './log.ts'
import { type Rate, TokenBuckets } from './token-bucket.ts'

/** A broken link's worth of lines at once, then one each ten seconds: 2 MB a day. */
const RATE: Rate = { burst: 32, perSecond: 0.1 }
/** As many as there may be connections, and then some who went. */
const MAX_PEERS = 2048

/** Lines about peers, so many for each: none fills the log of a node. */
export class PeerLines {
  readonly #buckets: TokenBuckets
  /** Lines left out since the last one. */
  readonly #leftOut = new Map<string, number>()

  constructor(rate = RATE) {
    this.#buckets = new TokenBuckets(rate, { maxBuckets: MAX_PEERS })
  }

  /** @returns what to write, with how many before it were left out; null: leave this one out too */
  admit<T extends object>(
    peer: string,
    facts: T,
    nowMs = performance.now(),
  ): (T & { leftOut?: number }) | null {
    const leftOut = this.#leftOut.get(peer) ?? 0
    this.#leftOut.delete(peer)
    if (this.#buckets.take(peer, nowMs)) return leftOut === 0 ? facts : { ...facts, leftOut }
    this.#leftOut.set(peer, leftOut + 1)
    const [oldest] = this.#leftOut.keys()
    if (this.#leftOut.size > MAX_PEERS && oldest !== undefined) this.#leftOut.delete(oldest)
    return null
  }
}

/** A log whose lines with a `peer` are bounded for each; others, and `debug`, are as they were. */
export function boundedLog(log: MeshLog): MeshLog {
  const lines = new PeerLines()
  const bounded = (write: (facts: object, message: string) => void) => (facts: object, message: string) => {
    const peer = 'peer' in facts ? String(facts.peer) : null
    const admitted = peer === null ? facts : lines.admit(peer, facts)
    if (admitted !== null) write(admitted, message)
  }
  return {
    debug: (facts, message) => log.debug(facts, message),
    info: bounded((facts, message) => log.info(facts, message)),
    warn: bounded((facts, message) => log.warn(facts, message)),
  }
}
