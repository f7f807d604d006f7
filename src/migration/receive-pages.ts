import parallel from 'it-parallel'
import { pipe } from 'it-pipe'
import type { PageGroup } from '../codec/index.ts'
import type { IncomingStream } from '../qemu/index.ts'
import type { Channel } from '../wire/channel.ts'
import { MAX_PAGES_FRAME_BYTES, type PagesFrame, pagesCodec } from '../wire/migration-messages.ts'
import { MigrationError } from './errors.ts'
import { pageGroups } from './pages-frame.ts'
import { TIMEOUTS_MS } from './protocol.ts'
import type { AppliedBatch, ArrivalJob } from './threads/arrival-job.ts'
import type { Job } from './threads/page-threads.ts'

/** One step of arriving pages: a batch as QEMU reads it, or the end of a round. */
type Arrival = ({ kind: 'batch' } & AppliedBatch) | { kind: 'round-end'; round: number }

/** Batches in the page thread, or on their way to QEMU. */
const MAX_BATCHES = 3

/**
 * Takes page rounds from the stream into QEMU: receive → decode and verify (in
 * a page thread) → QEMU, until the peer ends the stream. QEMU's pace holds the
 * stream back.
 *
 * @param onRound - called when all pages of a round are written to QEMU; `lost` as RoundApplied has it
 * @throws CodecError, WireError, MigrationError PROTOCOL_VIOLATION
 */
export async function receivePages(
  components: { pages: Channel; job: Job<ArrivalJob>; stream: IncomingStream },
  onRound: (round: number, lost: Uint8Array) => Promise<void>,
  signal: AbortSignal,
): Promise<void> {
  const { pages, job, stream } = components

  async function* receive(): AsyncGenerator<PagesFrame> {
    for (;;) {
      const bytes = await receiveInTime(pages, signal)
      if (bytes === null) return
      // A buffer of its own, as it goes to the page thread whole.
      yield pagesCodec.decode(new Uint8Array(bytes))
    }
  }

  async function* decode(frames: AsyncIterable<PagesFrame>): AsyncGenerator<() => Promise<Arrival>> {
    let round = 1
    let inRound = 0
    for await (const frame of frames) {
      if (frame.round !== round) throw violation(`a frame of round ${frame.round} in round ${round}`)
      if (frame.kind === 'batch') {
        const groups = pageGroups(frame)
        inRound += groups.reduce((sum, { indices }) => sum + indices.length, 0)
        yield async () => ({ kind: 'batch', ...(await job.call('apply', [groups], buffersOf(groups))) })
        continue
      }
      if (frame.pages !== inRound)
        throw violation(`${inRound} pages in round ${round}, ${frame.pages} announced`)
      const ended = round++
      inRound = 0
      yield async () => ({ kind: 'round-end', round: ended })
    }
  }

  async function write(arrivals: AsyncIterable<Arrival>): Promise<void> {
    let lost: boolean[] = []
    for await (const arrival of arrivals) {
      if (arrival.kind === 'round-end') {
        await onRound(arrival.round, lostBits(lost))
        lost = []
        continue
      }
      lost.push(...arrival.lost)
      await stream.writeEncoded(arrival.stream)
    }
  }

  await pipe(
    receive,
    decode,
    (batches) => parallel(batches, { concurrency: MAX_BATCHES, ordered: true }),
    write,
  )
}

/** A peer that opened a stream and says nothing must not keep a QEMU waiting here. */
async function receiveInTime(pages: Channel, signal: AbortSignal): Promise<Uint8Array | null> {
  const timeout = AbortSignal.timeout(TIMEOUTS_MS.pagesSilence)
  try {
    return await pages.receive({
      maxBytes: MAX_PAGES_FRAME_BYTES,
      signal: AbortSignal.any([signal, timeout]),
    })
  } catch (cause) {
    if (!timeout.aborted || signal.aborted) throw cause
    throw new MigrationError('MIGRATION_TIMEOUT', `no pages in ${TIMEOUTS_MS.pagesSilence} ms`, { cause })
  }
}

/** All groups of a batch are views on its frame. */
function buffersOf(groups: readonly PageGroup[]): ArrayBuffer[] {
  return [...new Set(groups.map(({ data }) => data.buffer as ArrayBuffer))].filter(
    ({ byteLength }) => byteLength > 0,
  )
}

/** A bit for each, the lowest first; empty when all are false. */
function lostBits(lost: readonly boolean[]): Uint8Array {
  if (!lost.includes(true)) return new Uint8Array(0)
  const bits = new Uint8Array(Math.ceil(lost.length / 8))
  lost.forEach((isLost, i) => {
    if (isLost) bits[i >>> 3]! |= 1 << (i & 7)
  })
  return bits
}

function violation(message: string): MigrationError {
  return new MigrationError('PROTOCOL_VIOLATION', message)
}
