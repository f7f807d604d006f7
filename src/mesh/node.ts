import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { identify } from '@libp2p/identify'
import type { Libp2p, PrivateKey } from '@libp2p/interface'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { createLibp2p } from 'libp2p'

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
 * The libp2p node under a mesh, not started: TCP, noise, yamux.
 *
 * Who doesn't have the mesh key gets no further than noise: the key is part of
 * the handshake's prologue, so each side's first encrypted message fails to
 * authenticate at the other unless both have it (Noise specification, section
 * 6). libp2p's pre-shared keys (@libp2p/pnet 3.0.27) would encrypt everything
 * a second time, and ended the process at the first bulk transfer of 1 MiB
 * messages: "WebAssembly.Memory.grow(): Maximum memory size exceeded", thrown
 * out of the event loop.
 *
 * @param meshKey - 32 bytes
 * @param listen - multiaddrs
 */
export async function createNode(
  privateKey: PrivateKey,
  { meshKey, listen }: { meshKey: Uint8Array; listen: readonly string[] },
): Promise<Libp2p> {
  const prologueBytes = Buffer.concat([Buffer.from('/drover/mesh/1\0'), meshKey])
  return createLibp2p({
    privateKey,
    start: false,
    addresses: { listen: [...listen] },
    transports: [tcp()],
    connectionEncrypters: [noise({ prologueBytes })],
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
    },
  })
}
