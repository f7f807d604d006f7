import { errorBody } from '../../domain/errors.ts'
import type { Policy } from '../../domain/policy.ts'
import type { PeerIdText } from '../../domain/vm.ts'
import { type Rate, TokenBucket, TokenBuckets } from '../../mesh/index.ts'
import type { Channel, ChannelHandler } from '../../wire/channel.ts'
import {
  MAX_PROBE_REQUEST_BYTES,
  type ProbeReply,
  type ProbeResult,
  type ProbeTarget,
  probeReplyCodec,
  probeRequestCodec,
} from '../../wire/probe-messages.ts'
import { isHost, isLoopback } from './addresses.ts'
import type { Prober } from './prober.ts'
import { REPLY_TIMEOUT_MS, REQUEST_TIMEOUT_MS } from './protocol.ts'

/** Targets for one peer: 120 a minute. A node with 16 clients probes them every 8 s. */
const PEER_RATE: Rate = { burst: 32, perSecond: 2 }
/** Targets at one host, whoever asks: 30 a minute, each of 5 connects. A round takes 3 s or more. */
const HOST_RATE: Rate = { burst: 16, perSecond: 0.5 }
/** Targets for all peers together. */
const NODE_RATE: Rate = { burst: 128, perSecond: 32 }
/** Members that a node is connected to, and then some who went. */
const MAX_PEERS = 2048
const MAX_HOSTS = 4096

export interface ProbeServerComponents {
  prober: Prober
  policy: Policy
  /** Whether this node's own machine is what others may ask about: where all of the mesh is on it. */
  probesLoopback: () => boolean
}

/**
 * Probes hosts for other nodes, those that may send VMs here. Bounded for each
 * of them, for each host and for all together, and it tells round trips alone:
 * a member can neither scan ports with it nor flood a host.
 */
export class ProbeServer {
  readonly #components: ProbeServerComponents
  readonly #now: () => number
  readonly #peers = new TokenBuckets(PEER_RATE, { maxBuckets: MAX_PEERS })
  readonly #hosts = new TokenBuckets(HOST_RATE, { maxBuckets: MAX_HOSTS })
  readonly #node: TokenBucket

  constructor(
    components: ProbeServerComponents,
    { now = () => performance.now() }: { now?: () => number } = {},
  ) {
    this.#components = components
    this.#now = now
    this.#node = new TokenBucket(NODE_RATE, now())
  }

  readonly handler: ChannelHandler = async (channel, signal) => {
    const bounded = AbortSignal.any([signal, AbortSignal.timeout(REQUEST_TIMEOUT_MS)])
    const bytes = await channel.receive({ maxBytes: MAX_PROBE_REQUEST_BYTES, signal: bounded })
    if (bytes === null) return
    const { targets } = probeRequestCodec.decode(bytes)
    await reply(channel, await this.#answer(channel.peer, targets), signal)
    await channel.close()
  }

  async #answer(peer: PeerIdText, targets: readonly ProbeTarget[]): Promise<ProbeReply> {
    try {
      this.#components.policy.requirePermitted('send', peer)
    } catch (error) {
      const { code, message } = errorBody(error)
      return { kind: 'refusal', code, message }
    }
    return { kind: 'results', results: await Promise.all(targets.map((target) => this.#probe(peer, target))) }
  }

  async #probe(peer: PeerIdText, target: ProbeTarget): Promise<ProbeResult> {
    const { prober, probesLoopback } = this.#components
    const isOwnMachine = isLoopback(target.address)
    if (!isHost(target.address) || (isOwnMachine && !probesLoopback())) {
      return { outcome: 'PROBE_OUTCOME_FORBIDDEN', rttUs: 0 }
    }
    const nowMs = this.#now()
    const isWithinLimits =
      this.#peers.take(peer, nowMs) &&
      (prober.isRecent(target) ||
        // The node's first: so few hosts get there that none is forgotten before its bucket is full again.
        (this.#node.take(nowMs) && (isOwnMachine || this.#hosts.take(target.address, nowMs))))
    if (!isWithinLimits) return { outcome: 'PROBE_OUTCOME_LIMITED', rttUs: 0 }
    const rttMs = await prober.measure(target)
    if (rttMs === null) return { outcome: 'PROBE_OUTCOME_SILENT', rttUs: 0 }
    return { outcome: 'PROBE_OUTCOME_ANSWERED', rttUs: Math.max(1, Math.round(rttMs * 1000)) }
  }
}

async function reply(channel: Channel, message: ProbeReply, signal: AbortSignal): Promise<void> {
  const bounded = AbortSignal.any([signal, AbortSignal.timeout(REPLY_TIMEOUT_MS)])
  await channel.send(probeReplyCodec.encode(message), { signal: bounded })
}
