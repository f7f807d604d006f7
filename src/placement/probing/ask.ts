import type { PeerIdText } from '../../domain/vm.ts'
import type { OpenChannel } from '../../wire/channel.ts'
import { WireError } from '../../wire/errors.ts'
import {
  MAX_PROBE_REPLY_BYTES,
  type ProbeTarget,
  probeReplyCodec,
  probeRequestCodec,
} from '../../wire/probe-messages.ts'
import { ASK_TIMEOUT_MS, PROBE_PROTOCOL } from './protocol.ts'

/** What a peer said of targets. */
export type ProbeAnswer =
  /** ms for each target, in its order; null: not measured, for whatever reason. */
  | { kind: 'measured'; rttsMs: (number | null)[] }
  /** It doesn't probe for this node. */
  | { kind: 'refused'; code: string; message: string }

/**
 * Has a peer probe targets. Takes ASK_TIMEOUT_MS at most.
 *
 * @param targets - 1 to MAX_PROBE_TARGETS, each once
 * @throws MeshError PEER_UNREACHABLE, PROTOCOL_UNSUPPORTED, CHANNEL_RESET; WireError MESSAGE_MALFORMED,
 *   MESSAGE_TOO_LARGE; the signal's reason
 */
export async function askProbes(
  open: OpenChannel,
  peer: PeerIdText,
  targets: readonly ProbeTarget[],
  signal: AbortSignal,
): Promise<ProbeAnswer> {
  const bounded = AbortSignal.any([signal, AbortSignal.timeout(ASK_TIMEOUT_MS)])
  const channel = await open(peer, PROBE_PROTOCOL, bounded)
  try {
    await channel.send(probeRequestCodec.encode({ targets: [...targets] }), { signal: bounded })
    await channel.close()
    const bytes = await channel.receive({ maxBytes: MAX_PROBE_REPLY_BYTES, signal: bounded })
    if (bytes === null) throw new WireError('MESSAGE_MALFORMED', `${peer} ended without an answer`)
    const reply = probeReplyCodec.decode(bytes)
    // A side that is left open would be held, with what else comes, for as long as the connection.
    if ((await channel.receive({ maxBytes: 0, signal: bounded })) !== null) {
      throw new WireError('MESSAGE_MALFORMED', `${peer} says more than an answer`)
    }
    if (reply.kind === 'refusal') return { ...reply, kind: 'refused' }
    if (reply.results.length !== targets.length) {
      const answered = `${reply.results.length} results for ${targets.length} targets`
      throw new WireError('MESSAGE_MALFORMED', `${peer} answered with ${answered}`)
    }
    return {
      kind: 'measured',
      rttsMs: reply.results.map(({ rttUs }) => (rttUs === 0 ? null : rttUs / 1000)),
    }
  } catch (error) {
    channel.abort(error as Error)
    throw error
  }
}
