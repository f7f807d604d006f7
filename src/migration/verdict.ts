import { setTimeout as sleep } from 'node:timers/promises'
import type { MigrationId, PeerIdText } from '../domain/vm.ts'
import { unlessAborted } from '../domain/wait.ts'
import type { Channel, ChannelHandler, OpenChannel } from '../wire/channel.ts'
import { signedCodec, verdictRequestCodec } from '../wire/migration-messages.ts'
import { MigrationError } from './errors.ts'
import { type Grant, type Heard, hear, sign } from './grant.ts'
import type { MigrationJournal } from './journal.ts'
import type { Signatures } from './ports.ts'
import { HANDOVER_PROTOCOL, TIMEOUTS_MS, VERDICT_RETRY_MS } from './protocol.ts'

/** What became of a Grant, for good. */
export type Verdict = 'granted' | 'refused'

const MAX_VERDICT_BYTES = 4096

/**
 * Asks the destination what became of a Grant, again and again until `act`
 * takes the answer. Silence is no answer: there is no time-out.
 *
 * @param act - throws where the answer doesn't count
 * @throws the signal's reason when the agent stops
 */
export async function askUntilAnswered(
  components: { open: OpenChannel; signatures: Signatures },
  grant: Grant,
  act: (heard: Heard) => void,
  signal: AbortSignal,
): Promise<void> {
  for (
    let delayMs: number = VERDICT_RETRY_MS.first;
    ;
    delayMs = Math.min(delayMs * 2, VERDICT_RETRY_MS.last)
  ) {
    try {
      return act(await ask(components, grant, signal))
    } catch {
      signal.throwIfAborted()
      await sleep(delayMs, undefined, { signal })
    }
  }
}

async function ask(
  { open, signatures }: { open: OpenChannel; signatures: Signatures },
  grant: Grant,
  signal: AbortSignal,
): Promise<Heard> {
  const bounded = AbortSignal.any([signal, AbortSignal.timeout(TIMEOUTS_MS.verdict)])
  const channel = await open(grant.destination, HANDOVER_PROTOCOL, bounded)
  try {
    const question = { grant: { ...grant, digest: Buffer.from(grant.digest, 'hex') } }
    await channel.send(verdictRequestCodec.encode(question), { signal: bounded })
    const answer = await channel.receive({ maxBytes: MAX_VERDICT_BYTES, signal: bounded })
    if (answer === null) throw new MigrationError('PEER_LOST', 'the destination closed without an answer')
    const said = { peer: grant.destination, words: ['TAKEN', 'REFUSED'] as const }
    const heard = await hear(signatures, signedCodec.decode(answer), said)
    await channel.close()
    return heard
  } catch (error) {
    channel.abort(error as Error)
    throw error
  }
}

/** A move that is arriving here at this moment, as far as questions about it go. */
export interface PendingGrant {
  /** A Grant that is being journaled is waited for, anything before is given up for good: then the journal knows. */
  settle(): Promise<void>
}

/**
 * Answers questions about Grants. One that was taken is in the journal. A move
 * that is under way here is given up first. Any other is refused for good, as a
 * Grant is for one arrival, and that one is not here: see handover.ts.
 */
export function serveVerdicts(components: {
  journal: MigrationJournal
  signatures: Signatures
  pending: (migrationId: MigrationId, source: PeerIdText) => PendingGrant | undefined
}): ChannelHandler {
  const verdictFor = async (grant: Grant): Promise<Verdict> => {
    await components.pending(grant.migrationId, grant.source)?.settle()
    // Of this very Grant, whatever that move was about.
    return (await components.journal.hasTaken(grant)) ? 'granted' : 'refused'
  }
  return async (channel: Channel, signal) => {
    const bounded = AbortSignal.any([signal, AbortSignal.timeout(TIMEOUTS_MS.verdict)])
    const bytes = await channel.receive({ maxBytes: MAX_VERDICT_BYTES, signal: bounded })
    if (bytes === null) return
    const { grant } = verdictRequestCodec.decode(bytes)
    if (grant.source !== channel.peer) {
      throw new MigrationError('PROTOCOL_VIOLATION', 'a question about the Grant of another node')
    }
    const asked = { ...grant, digest: Buffer.from(grant.digest).toString('hex') }
    // A Grant that a disk refuses is waited for as long as it takes: not by everybody who asked meanwhile.
    const verdict = await unlessAborted(verdictFor(asked), bounded)
    const word = verdict === 'granted' ? 'TAKEN' : 'REFUSED'
    await channel.send(signedCodec.encode(await sign(components.signatures, word, asked)), {
      signal: bounded,
    })
    await channel.close()
  }
}
