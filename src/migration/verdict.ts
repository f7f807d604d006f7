import { setTimeout as sleep } from 'node:timers/promises'
import { doubtOf, type MigrationId, type PeerIdText, type VmId, type VmRecord } from '../domain/vm.ts'
import type { Channel, ChannelHandler, OpenChannel } from '../wire/channel.ts'
import { verdictCodec, verdictRequestCodec } from '../wire/migration-messages.ts'
import { MigrationError } from './errors.ts'
import type { MigrationJournal } from './journal.ts'
import { HANDOVER_PROTOCOL, TIMEOUTS_MS, VERDICT_RETRY_MS } from './protocol.ts'

/** What the destination says about a Grant, for good. */
export type Verdict = 'granted' | 'refused'

const MAX_VERDICT_BYTES = 4096

/**
 * Asks the destination what became of a Grant, again and again until it
 * answers. Silence is no answer: there is no time-out.
 *
 * @throws the signal's reason when the agent stops
 */
export async function askUntilAnswered(
  open: OpenChannel,
  record: VmRecord,
  signal: AbortSignal,
): Promise<Verdict> {
  for (
    let delayMs: number = VERDICT_RETRY_MS.first;
    ;
    delayMs = Math.min(delayMs * 2, VERDICT_RETRY_MS.last)
  ) {
    try {
      return await ask(open, record, signal)
    } catch {
      signal.throwIfAborted()
      await sleep(delayMs, undefined, { signal })
    }
  }
}

async function ask(
  open: OpenChannel,
  { spec, epoch, state }: VmRecord,
  signal: AbortSignal,
): Promise<Verdict> {
  const doubt = doubtOf(state)
  if (doubt === null) throw new MigrationError('NOT_IN_DOUBT', `'${spec.name}' is not in doubt`)
  const bounded = AbortSignal.any([signal, AbortSignal.timeout(TIMEOUTS_MS.verdict)])
  const channel = await open(doubt.destination, HANDOVER_PROTOCOL, bounded)
  try {
    const question = { migrationId: doubt.migrationId, vmId: spec.id, epoch: epoch + 1 }
    await channel.send(verdictRequestCodec.encode(question), { signal: bounded })
    const answer = await channel.receive({ maxBytes: MAX_VERDICT_BYTES, signal: bounded })
    if (answer === null) throw new MigrationError('PEER_LOST', 'the destination closed without an answer')
    const { kind } = verdictCodec.decode(answer)
    await channel.close()
    return kind
  } catch (error) {
    channel.abort(error as Error)
    throw error
  }
}

interface GrantQuestion {
  migrationId: MigrationId
  vmId: VmId
  epoch: number
}

/** A move that is arriving here at this moment, as far as questions about it go. */
export interface PendingGrant {
  /** Settles the question: a Grant being journaled becomes `granted`, anything before is given up for good. */
  settle(): Promise<Verdict>
}

/**
 * Answers questions about Grants. A Grant counts once it is on disk. One whose
 * move is under way here is refused on disk first, and never taken later. Of a
 * move that this node knows nothing of no Grant can come any more, as a Grant
 * is taken on the stream of its Offer alone: that needs no record.
 */
export function serveVerdicts(components: {
  journal: MigrationJournal
  pending: (migrationId: MigrationId, source: PeerIdText) => PendingGrant | undefined
}): ChannelHandler {
  const verdictFor = async (question: GrantQuestion, source: PeerIdText): Promise<Verdict> => {
    const { migrationId, vmId, epoch } = question
    const pending = components.pending(migrationId, source)
    if (pending !== undefined && (await pending.settle()) === 'refused') {
      await components.journal.refuse(migrationId, { vmId, epoch, source, atMs: Date.now() })
      return 'refused'
    }
    const known = await components.journal.verdict(migrationId)
    const isThisGrant = known?.source === source && known.vmId === vmId && known.epoch === epoch
    return isThisGrant ? known.verdict : 'refused'
  }
  return async (channel: Channel, signal) => {
    const bounded = AbortSignal.any([signal, AbortSignal.timeout(TIMEOUTS_MS.verdict)])
    const bytes = await channel.receive({ maxBytes: MAX_VERDICT_BYTES, signal: bounded })
    if (bytes === null) return
    const verdict = await verdictFor(verdictRequestCodec.decode(bytes), channel.peer)
    const answer =
      verdict === 'granted'
        ? verdictCodec.encode({ kind: 'granted' })
        : verdictCodec.encode({ kind: 'refused', reason: 'no Grant of this move was journaled here' })
    await channel.send(answer, { signal: bounded })
    await channel.close()
  }
}
