import type { Libp2p } from '@libp2p/interface'
import { MeshError } from './errors.ts'
import type { Removals } from './removals.ts'

/** Two nodes that dial each other at the same moment have two; what is beyond this is one peer taking others' room. */
const MAX_CONNECTIONS_PER_PEER = 8

/** Cuts connections that must not be: of peers removed while they came through the gate, and of peers that have many. */
export function guardConnections(node: Libp2p, removals: Removals): void {
  node.addEventListener('connection:open', ({ detail: connection }) => {
    const peerId = connection.remotePeer.toString()
    if (removals.has(peerId)) return cutConnections(node, peerId)
    if (node.getConnections(connection.remotePeer).length <= MAX_CONNECTIONS_PER_PEER) return
    connection.abort(new MeshError('TOO_MANY_CHANNELS', `${peerId} opens too many connections`))
  })
}

/** Ends all connections to a peer that is removed, at once. */
export function cutConnections(node: Libp2p, peerId: string): void {
  const reason = new MeshError('PEER_REMOVED', `${peerId} was removed from this mesh`)
  for (const connection of node.getConnections()) {
    if (connection.remotePeer.toString() === peerId) connection.abort(reason)
  }
}
