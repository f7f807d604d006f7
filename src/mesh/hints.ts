import type { Multiaddr } from '@multiformats/multiaddr'

const MAX_HINTED_ADDRESSES = 16

/** Where others say that somebody is. How many somebodies, the redialer bounds. */
export class Hints {
  readonly #addresses = new Map<string, Multiaddr[]>()

  add(peerId: string, addresses: readonly Multiaddr[]): void {
    const known = this.of(peerId)
    const fresh = addresses.filter((address) => !known.some((other) => other.equals(address)))
    // The newest first, and no more of them than of a peer's own.
    this.#addresses.set(peerId, [...fresh, ...known].slice(0, MAX_HINTED_ADDRESSES))
  }

  of(peerId: string): readonly Multiaddr[] {
    return this.#addresses.get(peerId) ?? []
  }

  delete(peerId: string): void {
    this.#addresses.delete(peerId)
  }
}
