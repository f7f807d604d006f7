import type { Channel, ChannelHandler } from '../wire/channel.ts'
import {
  DIRECTORY_VERSION,
  directoryFrameCodec,
  directoryRequestCodec,
  type HeldAnnouncement,
  MAX_DIRECTORY_FRAME_BYTES,
  MAX_DIRECTORY_REQUEST_BYTES,
} from '../wire/directory-messages.ts'
import { WireError } from '../wire/errors.ts'
import type { Verdict } from './announcement-intake.ts'
import { type Directory, MAX_NODES } from './directory.ts'

/**
 * A directory handed over, `/drover/directory/1`:
 *
 *     asking node                              asked node
 *     known: digests of what it has      ->
 *                                        <-    envelopes that it lacks, with their age, in frames
 *
 * Each envelope is judged like one from gossip. Who lies about an age can make
 * a node count a beat longer or shorter, no more.
 */
export const DIRECTORY_PROTOCOL = '/drover/directory/1'
/** A full directory over 2 Mbit/s. */
export const DIRECTORY_TIMEOUT_MS = 20_000
/** All that a directory holds, at twice the usual size. */
const MAX_DIRECTORY_BYTES = 8 * 1024 * 1024
/** Of an envelope in its frame. */
const HELD_OVERHEAD_BYTES = 24

export type OfferAnnouncement = (data: Uint8Array, from: string, ageMs: number) => Promise<Verdict>

/** Answers who asks for this node's directory. */
export function serveDirectory(directory: Directory, now: () => number): ChannelHandler {
  return async (channel, signal) => {
    const bounded = AbortSignal.any([signal, AbortSignal.timeout(DIRECTORY_TIMEOUT_MS)])
    const bytes = await channel.receive({ maxBytes: MAX_DIRECTORY_REQUEST_BYTES, signal: bounded })
    if (bytes === null) throw new WireError('MESSAGE_MALFORMED', `${channel.peer} asked for nothing`)
    // Its bytes are valid until the next receive, and there is none.
    const { known } = directoryRequestCodec.decode(bytes)
    for (const frame of frames(directory.lackedBy(known, now()))) {
      await channel.send(directoryFrameCodec.encode({ held: frame }), { signal: bounded })
    }
  }
}

/**
 * Asks for what a peer's directory has and this one lacks.
 *
 * @param signal - bounds it; the caller's time-out is DIRECTORY_TIMEOUT_MS
 * @returns how many were taken in
 * @throws WireError MESSAGE_MALFORMED, MESSAGE_TOO_LARGE; MeshError CHANNEL_RESET; the signal's reason
 */
export async function fetchDirectory(
  channel: Channel,
  known: Uint8Array,
  offer: OfferAnnouncement,
  signal: AbortSignal,
): Promise<number> {
  try {
    await channel.send(directoryRequestCodec.encode({ version: DIRECTORY_VERSION, known }), { signal })
    await channel.close()
    let taken = 0
    let seen = 0
    for (;;) {
      const bytes = await channel.receive({ maxBytes: MAX_DIRECTORY_FRAME_BYTES, signal })
      if (bytes === null) return taken
      const { held } = directoryFrameCodec.decode(bytes)
      seen += held.length
      if (seen > MAX_NODES + 1 || channel.bytesReceived > MAX_DIRECTORY_BYTES) {
        throw new WireError('MESSAGE_TOO_LARGE', `the directory of ${channel.peer} never ends`)
      }
      for (const { envelope, ageMs } of held) {
        const verdict = await offer(envelope, channel.peer, ageMs)
        if (verdict === 'reject')
          throw new WireError('MESSAGE_MALFORMED', `${channel.peer} hands on forgeries`)
        if (verdict === 'accept') taken++
      }
    }
  } catch (error) {
    channel.abort(error instanceof Error ? error : new Error(String(error)))
    throw error
  }
}

/** As many in each as fit. */
function* frames(all: Iterable<HeldAnnouncement>): Generator<HeldAnnouncement[]> {
  let frame: HeldAnnouncement[] = []
  let frameBytes = 0
  for (const held of all) {
    const bytes = held.envelope.length + HELD_OVERHEAD_BYTES
    if (frameBytes + bytes > MAX_DIRECTORY_FRAME_BYTES) {
      yield frame
      frame = []
      frameBytes = 0
    }
    frame.push(held)
    frameBytes += bytes
  }
  if (frame.length > 0) yield frame
}
