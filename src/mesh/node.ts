import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import type { GossipSub } from '@libp2p/gossipsub'
import { type Identify, identify } from '@libp2p/identify'
import type { Libp2p, PeerDiscovery, PeerId, PrivateKey } from '@libp2p/interface'
import { type KadDHT, kadDHT } from '@libp2p/kad-dht'
import { mdns } from '@libp2p/mdns'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { type Ping, ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { createLibp2p } from 'libp2p'
import { isDialable } from './address.ts'
import { gatheredWrites } from './gathered-writes.ts'
import { gossip } from './gossip.ts'
import { PeerDatastore } from './peer-datastore.ts'

/** Six round trips and some: what a dial may take in all. */
export const DIAL_TIMEOUT_MS = 15_000
/** Addresses are tried one after the other: one that swallows packets must leave time for the rest. */
const ADDRESS_DIAL_TIMEOUT_MS = 3_000

/** 256 members, some of which dialled each other at the same moment. */
const MAX_CONNECTIONS = 1024
/** A second's worth of members behind one address that all start at once; libp2p's 5 would reset them. */
const MAX_INBOUND_PER_HOST_PER_SECOND = 256

/**
 * Window of a stream: how much may be on its way, so 1 Gbit/s up to 33 ms
 * away, and how much a reader that doesn't read can make this node keep.
 */
export const STREAM_WINDOW_BYTES = 4 * 1024 * 1024

/**
 * Control channels are silent for as long as a template travels; whoever waits
 * has a time-out of its own. yamux 8 doesn't enforce this, libp2p's interface
 * says that muxers may.
 */
const STREAM_INACTIVITY_TIMEOUT_MS = 24 * 3600 * 1000

/**
 * The connection monitor pings every 10 s and cuts the connection when that
 * fails. Its ping waits behind whatever a slow link is sending, which is no
 * dead peer yet: nothing on its way may give up earlier, and the next pings
 * must find room beside it (libp2p's own limit is one, and the second failure
 * to open a stream would cut the connection under a move).
 */
const MIN_MONITOR_TIMEOUT_MS = 30_000
const MAX_MONITOR_TIMEOUT_MS = 60_000
const MAX_PINGS = 32

/**
 * Provider records count for two hours, and are renewed when they are half an
 * hour old. A walk through the table asks some 20 nodes; it is done every 5
 * minutes for the table's own sake, and once for each new template.
 */
const DHT_PROTOCOL = '/drover/kad/1'
const PROVIDER_VALIDITY_MS = 2 * 3600 * 1000
const REPROVIDE_BEFORE_EXPIRY_MS = 90 * 60 * 1000
const REPROVIDE_CHECK_MS = 10 * 60 * 1000
/** Queries of one walk at a time: nobody waits for a walk in a mesh of usual size. */
const DHT_ALPHA = 3
const MAX_DHT_STREAMS = 16

export interface MeshServices {
  identify: Identify
  ping: Ping
  gossip: GossipSub
  dht: KadDHT
  /** Absent where it isn't wanted. */
  mdns?: PeerDiscovery
  [name: string]: unknown
}
export type MeshNode = Libp2p<MeshServices>

export interface NodeInit {
  /** 32 bytes. */
  meshKey: Uint8Array
  /** Multiaddrs. */
  listen: readonly string[]
  /** Name under which this mesh's nodes find each other in a LAN; without it they don't. */
  mdnsTag?: string
  /** Whether a peer is removed from the mesh: it is neither dialled nor let in. */
  isRemoved: (peerId: string) => boolean
}

/**
 * The libp2p node under a mesh, not started: TCP, noise, yamux; gossip and
 * provider records. Whatever a peer says of addresses, identify and the
 * provider table included, only those of the dialable form are kept or dialled.
 *
 * Who doesn't have the mesh key gets no further than noise: the key is part of
 * the handshake's prologue, so each side's first encrypted message fails to
 * authenticate at the other unless both have it (Noise specification, section
 * 6). libp2p's pre-shared keys (@libp2p/pnet 3.0.27) would encrypt everything
 * a second time, and ended the process at the first bulk transfer of 1 MiB
 * messages: "WebAssembly.Memory.grow(): Maximum memory size exceeded", thrown
 * out of the event loop.
 */
export async function createNode(
  privateKey: PrivateKey,
  { meshKey, listen, mdnsTag, isRemoved }: NodeInit,
): Promise<MeshNode> {
  const deny = (peer: PeerId) => isRemoved(peer.toString())
  const prologueBytes = Buffer.concat([Buffer.from('/drover/mesh/1\0'), meshKey])
  return createLibp2p<MeshServices>({
    privateKey,
    start: false,
    datastore: new PeerDatastore({ selfId: peerIdFromPrivateKey(privateKey).toString() }),
    addresses: { listen: [...listen] },
    transports: [tcp()],
    connectionEncrypters: [gatheredWrites(noise({ prologueBytes }))],
    streamMuxers: [
      yamux({
        streamOptions: {
          maxStreamWindowSize: STREAM_WINDOW_BYTES,
          // A paused stream can still get a whole window; more would be the peer's fault.
          maxReadBufferLength: 2 * STREAM_WINDOW_BYTES,
          inactivityTimeout: STREAM_INACTIVITY_TIMEOUT_MS,
        },
      }),
    ],
    connectionManager: {
      maxConnections: MAX_CONNECTIONS,
      inboundConnectionThreshold: MAX_INBOUND_PER_HOST_PER_SECOND,
      maxIncomingPendingConnections: MAX_INBOUND_PER_HOST_PER_SECOND,
      dialTimeout: DIAL_TIMEOUT_MS,
      addressDialTimeout: ADDRESS_DIAL_TIMEOUT_MS,
      inboundStreamProtocolNegotiationTimeout: MAX_MONITOR_TIMEOUT_MS,
    },
    connectionGater: {
      denyDialPeer: deny,
      // Who is at the other end is known once noise has proved it.
      denyInboundEncryptedConnection: deny,
      denyOutboundEncryptedConnection: deny,
      denyDialMultiaddr: (address) => !isDialable(address),
      filterMultiaddrForPeer: (_peer, address) => isDialable(address),
    },
    connectionMonitor: {
      pingTimeout: { minTimeout: MIN_MONITOR_TIMEOUT_MS, maxTimeout: MAX_MONITOR_TIMEOUT_MS },
    },
    services: {
      identify: identify(),
      ping: ping({
        timeout: MAX_MONITOR_TIMEOUT_MS,
        maxInboundStreams: MAX_PINGS,
        maxOutboundStreams: MAX_PINGS,
      }),
      gossip,
      dht: kadDHT({
        protocol: DHT_PROTOCOL,
        clientMode: false,
        alpha: DHT_ALPHA,
        // No values are kept, and public keys, which the library would take, are in every peer id.
        validators: { pk: refuseValue },
        peerInfoMapper: (peer) => ({
          ...peer,
          multiaddrs: deny(peer.id) ? [] : peer.multiaddrs.filter(isDialable),
        }),
        reprovide: {
          validity: PROVIDER_VALIDITY_MS,
          threshold: REPROVIDE_BEFORE_EXPIRY_MS,
          interval: REPROVIDE_CHECK_MS,
        },
        maxInboundStreams: MAX_DHT_STREAMS,
      }),
      ...(mdnsTag === undefined ? {} : { mdns: mdns({ serviceTag: mdnsTag }) }),
    },
  })
}

function refuseValue(): never {
  throw new Error('no values are kept here')
}
