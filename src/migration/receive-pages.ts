import { Readable } from 'node:stream'
import { pipe } from 'it-pipe'
import type { PageGroup } from '../codec/index.ts'
import type { IncomingStream } from '../qemu/index.ts'
import type { Channel } from '../wire/channel.ts'
import { type PagesFrame, pagesCodec } from '../wire/migration-messages.ts'
import { MigrationError } from './errors.ts'
import type { RoundGarbage } from './garbage.ts'
import { pageGroups } from './page-groups.ts'
import { MAX_ROUND_REFERENCES, TIMEOUTS_MS } from './protocol.ts'
import type { AppliedBatch, ArrivalJob, GroupInSlot } from './threads/arrival-job.ts'
import type { Job } from './threads/page-threads.ts'
import { FreeSlots, makeSlots, type Slots } from './threads/slots.ts'

/** One step of arriving pages: a batch as QEMU reads it, or the end of a round. */
type Arrival =
  | ({ kind: 'batch'; slot: number; pages: number } & AppliedBatch)
  | { kind: 'round-end'; round: number }

/** Frames that are held: one is received, two are with the page thread, and one is on its way to QEMU. */
const ARRIVAL_SLOTS = 4

/** So many go to QEMU between two looks at whether there is memory for them: 64 MiB. */
const LOOK_PAGES = 16_384

/** Memory for the frames of one arrival. */
export function arrivalSlots(): Slots {
  return makeSlots(ARRIVAL_SLOTS)
}

/**
 * Takes page rounds from the stream into QEMU: receive → decode and verify (in
 * a page thread) → QEMU, until the peer ends the stream. QEMU's pace holds the
 * stream back.
 *
 * @param onRound - called when all pages of a round are written to QEMU; `lost` as RoundApplied has it
 * @throws CodecError, WireError, MigrationError PROTOCOL_VIOLATION; what `requireRoom` throws
 */
export async function receivePages(
  components: {
    pages: Channel
    job: Job<ArrivalJob>
    slots: Slots
    stream: IncomingStream
    garbage: RoundGarbage
    /** Throws where there is no memory for more: a round may be larger than what was offered. */
    requireRoom: () => void
  },
  onRound: (round: number, lost: Uint8Array) => Promise<void>,
  signal: AbortSignal,
): Promise<void> {
  const { pages, job, slots, stream, garbage, requireRoom } = components
  const free = new FreeSlots(slots)

  async function* receive(): AsyncGenerator<{ frame: PagesFrame; slot: number }> {
    for (;;) {
      const slot = await free.take()
      const bytes = await receiveInTime(pages, new Uint8Array(slots[slot]!), signal)
      if (bytes === null) return
      garbage.passed(bytes.length)
      yield { frame: pagesCodec.decode(bytes), slot }
    }
  }

  async function* decode(
    frames: AsyncIterable<{ frame: PagesFrame; slot: number }>,
  ): AsyncGenerator<() => Promise<Arrival>> {
    let round = 1
    let inRound = 0
    let references = 0
    for await (const { frame, slot } of frames) {
      if (frame.round !== round) throw violation(`a frame of round ${frame.round} in round ${round}`)
      if (frame.kind === 'batch') {
        const groups = pageGroups(frame)
        const pages = pagesIn(groups)
        inRound += pages
        references += pagesIn(groups.filter(({ encoding }) => encoding === 'reference'))
        // Of each is kept whether it led nowhere.
        if (references > MAX_ROUND_REFERENCES) throw violation(`${references} references in round ${round}`)
        yield async () => {
          const applied = await job.call('apply', [slot, groups.map(inSlot)])
          return { kind: 'batch', slot, pages, ...applied }
        }
        continue
      }
      if (frame.pages !== inRound)
        throw violation(`${inRound} pages in round ${round}, ${frame.pages} announced`)
      const ended = round++
      inRound = 0
      references = 0
      free.give(slot)
      yield async () => ({ kind: 'round-end', round: ended })
    }
  }

  async function write(arrivals: AsyncIterable<Arrival>): Promise<void> {
    let lost: boolean[] = []
    let unseenPages = 0
    for await (const arrival of arrivals) {
      if (arrival.kind === 'round-end') {
        await onRound(arrival.round, lostBits(lost))
        lost = []
        continue
      }
      lost.push(...arrival.lost)
      await stream.writeEncoded(new Uint8Array(slots[arrival.slot]!, 0, arrival.streamBytes))
      free.give(arrival.slot)
      unseenPages += arrival.pages
      if (unseenPages < LOOK_PAGES) continue
      requireRoom()
      unseenPages = 0
    }
  }

  // In order; how many at a time, the slots decide.
  const run = (tasks: AsyncIterable<() => Promise<Arrival>>): AsyncIterable<Arrival> =>
    Readable.from(tasks, { highWaterMark: 1 }).map((task: () => Promise<Arrival>) => task(), {
      concurrency: slots.length,
    })
  await pipe(receive, decode, run, write)
}

/** A peer that opened a stream and says nothing must not keep a QEMU waiting here. */
async function receiveInTime(
  pages: Channel,
  into: Uint8Array,
  signal: AbortSignal,
): Promise<Uint8Array | null> {
  const timeout = AbortSignal.timeout(TIMEOUTS_MS.pagesSilence)
  try {
    return await pages.receive({
      maxBytes: into.length,
      into,
      signal: AbortSignal.any([signal, timeout]),
    })
  } catch (cause) {
    if (!timeout.aborted || signal.aborted) throw cause
    throw new MigrationError('MIGRATION_TIMEOUT', `no pages in ${TIMEOUTS_MS.pagesSilence} ms`, { cause })
  }
}

function pagesIn(groups: readonly PageGroup[]): number {
  return groups.reduce((sum, { indices }) => sum + indices.length, 0)
}

/** Where a group's data lies: a view on its frame, which is at the beginning of a slot; empty ones are nowhere. */
function inSlot({ encoding, indices, data }: PageGroup): GroupInSlot {
  const { byteLength: lengthBytes } = data
  return { encoding, indices, offsetBytes: lengthBytes === 0 ? 0 : data.byteOffset, lengthBytes }
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
