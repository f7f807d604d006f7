import { pipe } from 'it-pipe'
import type { RoundReport } from '../domain/migration.ts'
import type { Channel } from '../wire/channel.ts'
import { pagesCodec } from '../wire/migration-messages.ts'
import type { Capture, CapturedFrame } from './capture.ts'
import type { LinkRate } from './link-rate.ts'
import type { MoveMeter } from './meter.ts'
import type { Pace } from './pace.ts'

/**
 * Sends one round of pages: capture and encode (in a page thread) → pace → send.
 * The stages pull from each other, so a slow link slows the capture down and
 * at most one batch (1 MiB) is held at each stage.
 *
 * @param components.urgent - the guest stands still
 * @returns `ms` is the time of the sending alone, without what was spent giving way to another guest's blackout:
 *   the next round's may be the last, which gives way to nobody
 */
export async function sendRound(
  components: {
    capture: Capture
    pages: Channel
    meter: MoveMeter
    pace: Pace
    link: LinkRate
    urgent: boolean
    onSent: () => void
  },
  round: number,
  signal: AbortSignal,
): Promise<RoundReport> {
  const { capture, pages, meter, pace, link, urgent, onSent } = components
  let startedMs = performance.now()
  const report: RoundReport = { pages: 0, bytes: 0, ms: 0, throttlePercent: 0 }

  async function send(frames: AsyncIterable<CapturedFrame>): Promise<void> {
    for await (const { bytes, ...batch } of frames) {
      meter.countBatch(batch, report)
      startedMs += await pace.wait(bytes.length, { signal, urgent })
      await link.timed(bytes.length, () => pages.send(bytes, { signal }))
      onSent()
    }
  }

  await pipe(
    () =>
      capture.round(
        round,
        {
          batchPages: pace.batchPages,
          mayRefer: !urgent,
          linkBytesPerMs: () => linkBytesPerMs(link, pace),
        },
        signal,
      ),
    send,
  )
  await pages.send(pagesCodec.encode({ kind: 'roundEnd', round, pages: report.pages }), { signal })
  report.ms = performance.now() - startedMs
  return report
}

/** What pages may count on: what the link was found to carry, or its user allows. */
function linkBytesPerMs(link: LinkRate, pace: Pace): number | null {
  const allowed = Number.isFinite(pace.bytesPerMs) ? pace.bytesPerMs : null
  return allowed === null ? link.bytesPerMs : Math.min(allowed, link.bytesPerMs ?? allowed)
}
