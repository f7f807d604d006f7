import { ENCODINGS, type Encoding } from '../codec/index.ts'
import { errorBody } from '../domain/errors.ts'
import type {
  MigrationOutcome,
  MigrationPhase,
  MigrationReport,
  PageReport,
  RoundReport,
} from '../domain/migration.ts'
import type { Channel } from '../wire/channel.ts'
import type { CapturedBatch } from './threads/capture-job.ts'

/** The report calls a difference to the template's page what it once was made by. */
const REPORTED_AS = {
  zero: 'zero',
  template: 'template',
  raw: 'raw',
  zstd: 'zstd',
  delta: 'xor',
  reference: 'reference',
} as const satisfies Record<Encoding, keyof PageReport>

/** Gathers what a move did, for its report and its progress. */
export class MoveMeter {
  readonly report: MigrationReport
  readonly channels: Channel[] = []
  /** Of the time the guest is kept from running now: 0 to 99. */
  throttlePercent = 0
  #phase: MigrationPhase = 'negotiate'
  #running = false
  #startedMs = 0
  #phaseStartedMs = 0

  constructor(move: Pick<MigrationReport, 'migrationId' | 'vm' | 'from' | 'to' | 'templateId'>) {
    this.report = {
      ...move,
      outcome: 'failed',
      durationsMs: { total: 0, negotiate: 0, template: 0, rounds: 0, blackout: 0 },
      bytes: { wire: 0, template: 0, pages: 0, deviceState: 0, stockEquivalent: 0 },
      pages: {
        guest: 0,
        private: 0,
        sent: 0,
        omitted: 0,
        zero: 0,
        xor: 0,
        zstd: 0,
        raw: 0,
        reference: 0,
        template: 0,
      },
      rounds: [],
      destination: null,
      digest: null,
      error: null,
    }
  }

  get phase(): MigrationPhase {
    return this.#phase
  }

  /** The move's turn has come: its time begins. */
  begin(): void {
    this.#startedMs = performance.now()
    this.enter('negotiate', this.#startedMs)
  }

  /** Ends the current phase and begins the next. */
  // One look at the clock: what lies between two would be in no phase.
  enter(phase: MigrationPhase, nowMs = performance.now()): void {
    this.stop(nowMs)
    this.#phase = phase
    this.#phaseStartedMs = nowMs
    this.#running = true
  }

  /** Ends the last phase: the VM runs at the destination, the move is over for the guest. */
  stop(nowMs = performance.now()): void {
    if (!this.#running) return
    this.#running = false
    this.report.durationsMs[this.#phase] += nowMs - this.#phaseStartedMs
    this.report.durationsMs.total = nowMs - this.#startedMs
  }

  /** Counts a batch that is about to be sent. */
  countBatch({ pages, frameBytes }: CapturedBatch, round: RoundReport): void {
    for (const encoding of ENCODINGS) {
      const count = pages[encoding] ?? 0
      this.report.pages[REPORTED_AS[encoding]] += count
      this.report.pages.sent += count
      round.pages += count
    }
    this.report.bytes.pages += frameBytes
    round.bytes += frameBytes
  }

  /** Closes the books. */
  finish(outcome: MigrationOutcome, error: unknown): MigrationReport {
    this.stop()
    this.report.outcome = outcome
    this.report.error = error === null ? null : errorBody(error)
    const onChannels = this.channels.reduce(
      (sum, { bytesSent, bytesReceived }) => sum + bytesSent + bytesReceived,
      0,
    )
    this.report.bytes.wire = onChannels + this.report.bytes.template
    return this.report
  }
}
