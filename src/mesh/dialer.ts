import type { Connection, Libp2p, PeerId } from '@libp2p/interface'
import { peerIdFromString } from '@libp2p/peer-id'
import type { Multiaddr } from '@multiformats/multiaddr'
import { MeshError } from './errors.ts'
import { DIAL_TIMEOUT_MS } from './node.ts'
import type { Removals } from './removals.ts'

/** Connections by peer id: the one that is there, or a new one. */
export class Dialer {
  readonly #node: Libp2p
  readonly #removals: Removals
  readonly #addressesOf: (peerId: string) => Multiaddr[]

  /** @param components.addressesOf - where a peer may be found, each address with its peer id */
  constructor(components: {
    node: Libp2p
    removals: Removals
    addressesOf: (peerId: string) => Multiaddr[]
  }) {
    this.#node = components.node
    this.#removals = components.removals
    this.#addressesOf = components.addressesOf
  }

  /** The connection to a peer, if there is one. */
  existing(peer: string): Connection | undefined {
    return this.#node.getConnections(parsePeerId(peer)).find((connection) => connection.status === 'open')
  }

  /**
   * Dials unless there is a connection; takes at most DIAL_TIMEOUT_MS.
   *
   * @throws MeshError PEER_UNREACHABLE; PEER_REMOVED; PEER_NOT_FOUND when `peer` is no peer id; the signal's reason
   */
  async connect(peer: string, signal: AbortSignal): Promise<Connection> {
    signal.throwIfAborted()
    this.#removals.requireMember(peer)
    const existing = this.existing(peer)
    if (existing !== undefined) return existing
    const addresses = this.#addressesOf(peer)
    const details = { peer, addresses: addresses.map(String) }
    if (addresses.length === 0) {
      throw new MeshError('PEER_UNREACHABLE', `no address of ${peer} is known`, { details })
    }
    try {
      return await this.#node.dial(addresses, {
        signal: AbortSignal.any([signal, AbortSignal.timeout(DIAL_TIMEOUT_MS)]),
      })
    } catch (cause) {
      signal.throwIfAborted()
      throw new MeshError('PEER_UNREACHABLE', `${peer} can't be reached at any of its addresses`, {
        cause,
        details,
      })
    }
  }
}

function parsePeerId(peer: string): PeerId {
  try {
    return peerIdFromString(peer)
  } catch (cause) {
    throw new MeshError('PEER_NOT_FOUND', `not a peer id: ${peer}`, { cause, details: { peer } })
  }
}
