import type { MigrationReport } from '../domain/migration.ts'
import type { PeerIdText } from '../domain/vm.ts'

/** Less than this says more of round trips and threads than of the link. */
const MIN_BYTES = 1024 ** 2
/** Of the latest move: links change, and one move under `--max-bandwidth` isn't what the link carries. */
const LATEST_SHARE = 0.3
/** As many as a node is connected to, and then some; those used longest ago go first. */
const MAX_PEERS = 1024

/** What links from this node carried in its moves. Has no clock. */
export class LinkRates {
  readonly #bytesPerSecond = new Map<PeerIdText, number>()

  /** Bytes a second to a peer; null: nothing large has gone there. */
  bytesPerSecond(peer: PeerIdText): number | null {
    return this.#bytesPerSecond.get(peer) ?? null
  }

  /** A move from here has ended, in whatever way: what it sent, it sent. */
  moved({
    to,
    rounds,
    bytes,
    durationsMs,
  }: Pick<MigrationReport, 'to' | 'rounds' | 'bytes' | 'durationsMs'>): void {
    const sent = rounds.reduce((sum, round) => ({ bytes: sum.bytes + round.bytes, ms: sum.ms + round.ms }), {
      bytes: 0,
      ms: 0,
    })
    // Of the template, what that node fetched from whomever has it: the next one will come no slower.
    this.#add(to, sent.bytes >= MIN_BYTES ? sent : { bytes: bytes.template, ms: durationsMs.template })
  }

  #add(peer: PeerIdText, { bytes, ms }: { bytes: number; ms: number }): void {
    if (bytes < MIN_BYTES || ms <= 0) return
    const latest = (bytes / ms) * 1000
    const before = this.#bytesPerSecond.get(peer) ?? latest
    this.#bytesPerSecond.delete(peer)
    this.#bytesPerSecond.set(peer, before + LATEST_SHARE * (latest - before))
    const [oldest] = this.#bytesPerSecond.keys()
    if (this.#bytesPerSecond.size > MAX_PEERS && oldest !== undefined) this.#bytesPerSecond.delete(oldest)
  }
}
