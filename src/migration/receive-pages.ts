import { pipe } from 'it-pipe'
import { decodeBatch, type PageHashes, type TemplatePages } from '../codec/index.ts'
import { PAGE_BYTES, type Page, ZERO_PAGE } from '../domain/page.ts'
import { type IncomingStream, RAM_BLOCK } from '../qemu/index.ts'
import type { Channel } from '../wire/channel.ts'
import { MAX_PAGES_FRAME_BYTES, type PagesFrame, pagesCodec } from '../wire/migration-messages.ts'
import { MigrationError } from './errors.ts'
import { pageGroups } from './pages-frame.ts'
import { TIMEOUTS_MS } from './protocol.ts'

/** One step of arriving pages: decoded pages, or the end of a round. */
type Arrival = { kind: 'pages'; pages: Page[] } | { kind: 'round-end'; round: number }

/**
 * Takes page rounds from the stream into QEMU: receive → decode → verify →
 * QEMU, until the peer ends the stream. QEMU's pace holds the stream back.
 *
 * @param onRound - called when all pages of a round are written to QEMU
 * @throws CodecError, WireError, MigrationError PROTOCOL_VIOLATION
 */
export async function receivePages(
  components: { pages: Channel; template: TemplatePages; hashes: PageHashes; stream: IncomingStream },
  onRound: (round: number) => Promise<void>,
  signal: AbortSignal,
): Promise<void> {
  const { pages, template, hashes, stream } = components
  const guestPages = hashes.known.pages

  async function* receive(): AsyncGenerator<PagesFrame> {
    for (;;) {
      const bytes = await receiveInTime(pages, signal)
      if (bytes === null) return
      yield pagesCodec.decode(bytes)
    }
  }

  async function* decode(frames: AsyncIterable<PagesFrame>): AsyncGenerator<Arrival> {
    let round = 1
    let inRound = 0
    for await (const frame of frames) {
      if (frame.round !== round) throw violation(`a frame of round ${frame.round} in round ${round}`)
      if (frame.kind === 'batch') {
        const decoded = await decodeBatch(pageGroups(frame), template, guestPages)
        inRound += decoded.length
        yield { kind: 'pages', pages: decoded }
        continue
      }
      if (frame.pages !== inRound)
        throw violation(`${inRound} pages in round ${round}, ${frame.pages} announced`)
      yield { kind: 'round-end', round }
      round++
      inRound = 0
    }
  }

  async function write(arrivals: AsyncIterable<Arrival>): Promise<void> {
    for await (const arrival of arrivals) {
      if (arrival.kind === 'round-end') {
        await onRound(arrival.round)
        continue
      }
      for (const { index, content } of arrival.pages) hashes.update(index, content)
      await writePages(stream, arrival.pages)
    }
  }

  await pipe(receive, decode, write)
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

/** Zero pages go as zero records: QEMU then leaves a page alone that is zero already. */
async function writePages(stream: IncomingStream, pages: readonly Page[]): Promise<void> {
  const zeros = pages.filter(({ content }) => content === ZERO_PAGE)
  const others = pages.filter(({ content }) => content !== ZERO_PAGE)
  if (zeros.length > 0) {
    await stream.writeZeroPages(
      RAM_BLOCK,
      zeros.map(({ index }) => index * PAGE_BYTES),
    )
  }
  if (others.length > 0) {
    await stream.writePages(
      RAM_BLOCK,
      others.map(({ index, content }) => ({ offsetBytes: index * PAGE_BYTES, content })),
    )
  }
}

function violation(message: string): MigrationError {
  return new MigrationError('PROTOCOL_VIOLATION', message)
}
