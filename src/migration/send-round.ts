import { pipe } from 'it-pipe'
import { type ClassifiedPage, encodeBatch } from '../codec/index.ts'
import type { RoundReport } from '../domain/migration.ts'
import type { Channel } from '../wire/channel.ts'
import { pagesCodec } from '../wire/migration-messages.ts'
import type { Capture } from './capture.ts'
import type { MoveMeter } from './meter.ts'
import type { Pace } from './pace.ts'
import { encodePagesFrame } from './pages-frame.ts'

/**
 * Sends one round of pages: capture → encode → pace → send. The stages pull
 * from each other, so a slow link slows the capture down and at most one batch
 * (1 MiB) is held at each stage.
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
    urgent: boolean
    onSent: () => void
  },
  round: number,
  signal: AbortSignal,
): Promise<RoundReport> {
  const { capture, pages, meter, pace, urgent, onSent } = components
  let startedMs = performance.now()
  const report: RoundReport = { pages: 0, bytes: 0, ms: 0, throttlePercent: 0 }

  async function* encode(batches: AsyncIterable<ClassifiedPage[]>): AsyncGenerator<Uint8Array> {
    for await (const batch of batches) {
      const groups = await encodeBatch(batch)
      const frame = encodePagesFrame(round, groups)
      meter.countBatch(groups, frame.length, report)
      yield frame
    }
  }

  async function send(frames: AsyncIterable<Uint8Array>): Promise<void> {
    for await (const frame of frames) {
      startedMs += await pace.wait(frame.length, { signal, urgent })
      await pages.send(frame, { signal })
      onSent()
    }
  }

  await pipe(() => capture.round(), encode, send)
  await pages.send(pagesCodec.encode({ kind: 'roundEnd', round, pages: report.pages }), { signal })
  report.ms = performance.now() - startedMs
  return report
}
