import type { Connection, Libp2p, Stream } from '@libp2p/interface'
import type { Channel, ChannelHandler } from '../wire/channel.ts'
import { StreamChannel } from './channel.ts'
import { MeshError } from './errors.ts'
import type { MeshLog } from './log.ts'
import { Tasks } from './tasks.ts'
import { type Rate, TokenBuckets } from './token-bucket.ts'

/** Channels of one protocol that one peer may have open here, unless its handler says otherwise. */
const MAX_INBOUND_STREAMS = 64
/** Far above what drover opens: a leak shows before it eats the connection's 1000. */
const MAX_OUTBOUND_STREAMS = 256

/**
 * Channels of one protocol that one peer may open a second. Far above what
 * drover does: 8 moves of 100 ms side by side are 80, and a herd's 64 VMs are
 * watched, looked at and cancelled all at once.
 */
const CHANNEL_RATE: Rate = { burst: 512, perSecond: 128 }
/** As many as there may be connections, and then some who went. */
const MAX_PEERS = 2048

/** After its handler is done with a channel, the peer gets so long to take the rest and end its side. */
const LINGER_MS = 120_000

export interface HandlerLimits {
  /** Channels of this protocol that one peer may have open at a time. */
  maxInboundStreams?: number
  /** Channels of this protocol that one peer may open; what comes faster is reset. Default CHANNEL_RATE. */
  rate?: Rate
}

/** The channels of one node: opened here, served here, none left when it stops. */
export class Channels {
  readonly #log: MeshLog
  readonly #open = new Set<StreamChannel>()
  readonly #serving = new Tasks()

  constructor(components: { log: MeshLog }) {
    this.#log = components.log
  }

  /**
   * @param signal - for the opening; the channel outlives it
   * @throws MeshError PROTOCOL_UNSUPPORTED, PEER_UNREACHABLE; the signal's reason
   */
  async open(connection: Connection, protocol: string, signal: AbortSignal): Promise<Channel> {
    const peer = connection.remotePeer.toString()
    try {
      const stream = await connection.newStream([protocol], {
        signal,
        maxOutboundStreams: MAX_OUTBOUND_STREAMS,
      })
      return this.#track(stream, peer)
    } catch (cause) {
      signal.throwIfAborted()
      const details = { peer, protocol }
      if (cause instanceof Error && cause.name === 'UnsupportedProtocolError') {
        throw new MeshError('PROTOCOL_UNSUPPORTED', `${peer} does not speak ${protocol}`, { cause, details })
      }
      throw new MeshError('PEER_UNREACHABLE', `${peer} took no channel for ${protocol}`, { cause, details })
    }
  }

  /** Gives every channel that a peer opens for `protocol` to `handler`; its success closes, its failure aborts. */
  async serve(
    node: Libp2p,
    protocol: string,
    handler: ChannelHandler,
    limits: HandlerLimits = {},
  ): Promise<void> {
    const maxOpen = limits.maxInboundStreams ?? MAX_INBOUND_STREAMS
    // libp2p counts the streams of a connection, and a peer may have several of those.
    const open = new Map<string, number>()
    const buckets = new TokenBuckets(limits.rate ?? CHANNEL_RATE, { maxBuckets: MAX_PEERS })
    const accept = (stream: Stream, connection: Connection) => {
      const peer = connection.remotePeer.toString()
      if (!buckets.take(peer, performance.now()) || (open.get(peer) ?? 0) >= maxOpen) {
        const error = new MeshError('TOO_MANY_CHANNELS', `${peer} opens too many channels for ${protocol}`)
        this.#log.warn({ peer, protocol, code: error.code }, 'a channel of a peer was reset')
        return stream.abort(error)
      }
      countOpen(open, peer, stream)
      const channel = this.#track(stream, peer)
      this.#serving.run(
        async (signal) => {
          try {
            await handler(channel, signal)
            await channel.close()
            linger(stream, channel)
          } catch (error) {
            channel.abort(error instanceof Error ? error : new Error(String(error)))
            throw error
          }
        },
        (error) => this.#log.warn({ err: error, peer: channel.peer, protocol }, 'a channel of a peer failed'),
      )
    }
    await node.handle(protocol, accept, {
      maxInboundStreams: maxOpen,
      maxOutboundStreams: MAX_OUTBOUND_STREAMS,
    })
  }

  /** Peers see a reset: libp2p's own stop would end the streams as if everything had been said. */
  async stop(): Promise<void> {
    const reason = new MeshError('CHANNEL_CLOSED', 'this node stops')
    for (const channel of this.#open) channel.abort(reason)
    await this.#serving.stop(reason)
  }

  #track(stream: Stream, peer: string): StreamChannel {
    const channel = new StreamChannel(stream, peer)
    this.#open.add(channel)
    stream.addEventListener('close', () => this.#open.delete(channel), { once: true })
    if (stream.status !== 'open') this.#open.delete(channel)
    return channel
  }
}

function countOpen(open: Map<string, number>, peer: string, stream: Stream): void {
  if (stream.status !== 'open') return
  open.set(peer, (open.get(peer) ?? 0) + 1)
  const closed = () => {
    const left = open.get(peer)! - 1
    if (left > 0) open.set(peer, left)
    else open.delete(peer)
  }
  stream.addEventListener('close', closed, { once: true })
}

function linger(stream: Stream, channel: Channel): void {
  if (stream.status !== 'open') return
  const giveUp = () => channel.abort(new MeshError('CHANNEL_RESET', `${channel.peer} never ended its side`))
  const timer = setTimeout(giveUp, LINGER_MS).unref()
  stream.addEventListener('close', () => clearTimeout(timer), { once: true })
}
