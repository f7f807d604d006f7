import { setTimeout as sleep } from 'node:timers/promises'
import { pipe } from 'it-pipe'
import { type ClassifiedPage, encodeBatch } from '../codec/index.ts'
import type { RoundReport } from '../domain/migration.ts'
import type { Channel } from '../wire/channel.ts'
import { pagesCodec } from '../wire/migration-messages.ts'
import type { Capture } from './capture.ts'
import type { MoveMeter } from './meter.ts'
import { encodePagesFrame } from './pages-frame.ts'

/**
 * Sends one round of pages: capture → encode → pace → send. The stages pull
 * from each other, so a slow link slows the capture down and at most one batch
 * (1 MiB) is held at each stage.
 */
export async function sendRound(
  components: { capture: Capture; pages: Channel; meter: MoveMeter; pace: Pace; onSent: () => void },
  round: number,
  signal: AbortSignal,
): Promise<RoundReport> {
  const { capture, pages, meter, pace, onSent } = components
  const report: RoundReport = { pages: 0, bytes: 0, ms: 0 }

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
      await pace.wait(frame.length, signal)
      await pages.send(frame, { signal })
      onSent()
    }
  }

  await pipe(() => capture.round(), encode, send)
  await pages.send(pagesCodec.encode({ kind: 'roundEnd', round, pages: report.pages }), { signal })
  return report
}

/** Keeps a byte stream at or below a rate, without saving up unused time. */
export class Pace {
  readonly #bytesPerMs: number
  #freeAtMs = 0

  /** @param bytesPerSecond - null: no limit */
  constructor(bytesPerSecond: number | null) {
    this.#bytesPerMs = bytesPerSecond === null ? Number.POSITIVE_INFINITY : bytesPerSecond / 1000
  }

  /** Resolves when `bytes` more may be sent. */
  async wait(bytes: number, signal: AbortSignal): Promise<void> {
    if (this.#bytesPerMs === Number.POSITIVE_INFINITY) return
    const nowMs = performance.now()
    const startMs = Math.max(nowMs, this.#freeAtMs)
    this.#freeAtMs = startMs + bytes / this.#bytesPerMs
    if (startMs > nowMs) await sleep(startMs - nowMs, undefined, { signal })
  }
}
