import type { Channel, ChannelHandler } from '../../src/wire/channel.ts'
import { channelPair } from '../support/channel-pair.ts'
import { outcomeOf } from './outcome.ts'
import { FuzzFailure } from './target.ts'

/** Nobody's answer is longer. */
const MAX_ANSWER_BYTES = 4 * 1024 * 1024
export const ATTACKER = 'mallory'

export interface Attack {
  says: readonly Uint8Array[]
  /** Leaves by a reset, in place of the channel's end. */
  resets: boolean
}

/**
 * Opens a channel to a handler, says what it has to say without waiting for
 * answers, takes all answers, and leaves.
 *
 * @returns as `outcomeOf`
 */
export async function attackHandler(
  handler: ChannelHandler,
  { says, resets }: Attack,
  what: string,
): Promise<string> {
  const [ours, theirs] = channelPair({ peers: [ATTACKER, 'here'] })
  const ended = new AbortController()
  // As the mesh does: success closes, failure aborts.
  const served = handler(theirs, ended.signal).then(
    () => theirs.close(),
    (error: Error) => {
      theirs.abort(error)
      throw error
    },
  )
  const outcome = outcomeOf(served, what)
  const saying = sayAll(ours, { says, resets })
  await Promise.all([takeAll(ours), outcome])
  return leave([ours, theirs], ended, { saying, outcome })
}

/** The same from the other side: `client` is ours, and who serves it is hostile. */
export async function attackClient(
  client: (channel: Channel, signal: AbortSignal) => Promise<unknown>,
  { says, resets }: Attack,
  what: string,
): Promise<string> {
  const [ours, theirs] = channelPair({ peers: [ATTACKER, 'here'] })
  const ended = new AbortController()
  const outcome = outcomeOf(client(theirs, ended.signal), what)
  const [saying, taking] = [sayAll(ours, { says, resets }), takeAll(ours)]
  await outcome.finally(() => leave([ours, theirs], ended, { saying, outcome }))
  await taking
  return outcome
}

/** A handler that is done reads no more: what is still being said to it is cut off. */
async function leave(
  ends: readonly Channel[],
  ended: AbortController,
  { saying, outcome }: { saying: Promise<void>; outcome: Promise<string> },
): Promise<string> {
  for (const end of ends) end.abort(new Error('the channel has ended'))
  ended.abort(new Error('the channel has ended'))
  await saying
  return outcome
}

async function sayAll(channel: Channel, { says, resets }: Attack): Promise<void> {
  try {
    for (const message of says) await channel.send(message)
    if (resets) channel.abort(new Error('the peer is gone'))
    else await channel.close()
  } catch {
    // It hung up on us, as it may.
  }
}

async function takeAll(channel: Channel): Promise<void> {
  for (;;) {
    const answer = await channel.receive({ maxBytes: MAX_ANSWER_BYTES }).catch(() => null)
    if (answer === null) return
    // What has no code of its own goes out as INTERNAL: somebody didn't foresee it.
    if (Buffer.from(answer).includes('INTERNAL')) {
      throw new FuzzFailure(`an answer with INTERNAL: ${Buffer.from(answer).toString('latin1')}`)
    }
  }
}
