import type { Multiaddr } from '@multiformats/multiaddr'
import { type DialableAddress, dialableAddresses } from './address.ts'
import type { Directory } from './directory.ts'
import type { MemberBook } from './member-book.ts'

const MAX_HINTED_ADDRESSES = 16

/** Where each peer may be found: by its own words, by what this node was told, by what others say. */
export class Whereabouts {
  readonly #book: MemberBook
  readonly #directory: Directory
  /** Where this node was told to look for somebody, for as long as it runs. */
  readonly #bootstrap = new Map<string, Multiaddr[]>()
  /** Where others say that somebody is. How many somebodies, the redialer bounds. */
  readonly #hints = new Map<string, Multiaddr[]>()

  constructor(components: { book: MemberBook; directory: Directory }) {
    this.#book = components.book
    this.#directory = components.directory
  }

  /** A node's own words come first, the newest in front; others may know better where it is while it is away. */
  of(peerId: string): Multiaddr[] {
    const own = [
      ...(this.#directory.get(peerId)?.addresses ?? []),
      ...(this.#book.get(peerId)?.addresses ?? []),
    ]
    const all = [
      ...dialableAddresses(own, peerId),
      ...(this.#bootstrap.get(peerId) ?? []),
      ...(this.#hints.get(peerId) ?? []),
    ]
    return [...new Map(all.map((address) => [address.toString(), address])).values()]
  }

  bootstrap({ peerId, address }: DialableAddress): void {
    this.#bootstrap.set(peerId, [...(this.#bootstrap.get(peerId) ?? []), address])
  }

  hint(peerId: string, addresses: readonly Multiaddr[]): void {
    const known = this.#hints.get(peerId) ?? []
    const fresh = addresses.filter((address) => !known.some((other) => other.equals(address)))
    // The newest first, and no more of them than of a peer's own.
    this.#hints.set(peerId, [...fresh, ...known].slice(0, MAX_HINTED_ADDRESSES))
  }

  /** It has said itself where it is, or nobody answers there. */
  forgetHints(peerId: string): void {
    this.#hints.delete(peerId)
  }

  forget(peerId: string): void {
    this.#hints.delete(peerId)
    this.#bootstrap.delete(peerId)
  }
}
