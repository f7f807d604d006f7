import type { PeerIdText } from '../../domain/vm.ts'

/** After one failure; doubles with each until it answers. */
const FIRST_WAIT_MS = 5_000
const MAX_WAIT_MS = 300_000

interface Trouble {
  code: string
  failures: number
  untilMs: number
}

/** Peers that didn't answer, or refuse: they aren't asked for a while. Has no clock. */
export class AskedPeers {
  readonly #troubles = new Map<PeerIdText, Trouble>()

  mayAsk(peer: PeerIdText, nowMs: number): boolean {
    return (this.#troubles.get(peer)?.untilMs ?? nowMs) <= nowMs
  }

  answered(peer: PeerIdText): void {
    this.#troubles.delete(peer)
  }

  /** @param code - such as NOT_PERMITTED */
  failed(peer: PeerIdText, code: string, nowMs: number): void {
    const failures = (this.#troubles.get(peer)?.failures ?? 0) + 1
    const untilMs = nowMs + Math.min(FIRST_WAIT_MS * 2 ** (failures - 1), MAX_WAIT_MS)
    this.#troubles.set(peer, { code, failures, untilMs })
  }

  /** Codes by peer, of those that failed when they were asked last. */
  troubles(): ReadonlyMap<PeerIdText, string> {
    return new Map([...this.#troubles].map(([peer, { code }]) => [peer, code]))
  }

  /** Forgets those who are no longer around. */
  keepOnly(peers: ReadonlySet<PeerIdText>): void {
    for (const peer of this.#troubles.keys()) if (!peers.has(peer)) this.#troubles.delete(peer)
  }
}
