import { MAX_BATCH_PAGES } from '../codec/index.ts'
import type { PageBitmap } from '../domain/bitmap.ts'
import { Freeze } from '../memory/index.ts'
import type { CapturedBatch, CaptureInit, CaptureJob, CaptureSummary } from './threads/capture-job.ts'
import type { Job, PageThreads } from './threads/page-threads.ts'
import { makeSlots, type Slots } from './threads/slots.ts'

/** While one frame is on its way out, the page thread makes the next; more than one more would only hold more. */
const SLOTS = 3

/** A batch, with its frame: a view on shared memory that is valid until the next one is asked for. */
export interface CapturedFrame extends CapturedBatch {
  bytes: Uint8Array
}

/** What a round may know of the link. */
export interface LinkHints {
  /** Most pages in a batch. */
  batchPages: number
  mayRefer: boolean
  /** What the link was found to carry; null where it never was what took the time. */
  linkBytesPerMs: () => number | null
}

/** What the last round leaves: the guest stands still. */
export interface LastRound<T> {
  round: T
  /** As Finish carries it. */
  compressedState: Uint8Array
  deviceStateBytes: number
}

/** How a guest is stopped and its state comes out of it: by reading its memory, or from QEMU's own migration. */
export interface CaptureWay {
  /** Whether QEMU may stop the guest before it is asked: the destination must be ready for it by then. */
  readonly mayStopItself: boolean
  /** Since when the guest stands still, as performance.now() tells; null: it runs. */
  readonly stoppedAtMs: number | null
  /** Called when QEMU has stopped the guest before it was asked. */
  onStopped(listener: () => void): void
  /** How many pages the guest has of its own, or at the most. */
  privatePages(): Promise<number>
  /** A round begins: the guest's private pages, and those of them that may have changed since the last. */
  begin(signal: AbortSignal): Promise<{ private: PageBitmap; candidates: PageBitmap }>
  /** @throws QemuError NOT_MOVABLE, QMP_TIMEOUT */
  stop(signal: AbortSignal): Promise<void>
  /**
   * The last round, and the device state.
   *
   * @param onSaved - called when QEMU has saved the device state
   */
  finish<T>(sendRound: () => Promise<T>, onSaved: () => void, signal: AbortSignal): Promise<LastRound<T>>
  /** The VM stays: QEMU is as it was, the guest runs or stands. */
  release(): Promise<void>
  /** Whether the pages that were sent can be read once more, to be kept. */
  readonly mayKeep: boolean
  close(): void
}

/** The pages of a running guest, round by round; the work is done in a page thread (CaptureJob). */
export class Capture implements AsyncDisposable {
  /** Whoever freezes the guest does it here. */
  readonly freeze: Freeze
  readonly way: CaptureWay
  readonly #job: Job<CaptureJob>
  readonly #slots: Slots

  private constructor(job: Job<CaptureJob>, init: CaptureInit, wayOf: MakeWay) {
    this.#job = job
    this.#slots = init.slots
    this.freeze = new Freeze(init.pid)
    this.way = wayOf(job, this.freeze)
  }

  /** @throws MemoryError; MigrationError PAGE_THREAD_ENDED */
  static async open(
    components: { threads: PageThreads; wayOf: MakeWay },
    init: Omit<CaptureInit, 'slots'>,
  ): Promise<Capture> {
    const slots = makeSlots(SLOTS)
    const job = await components.threads.open('capture', { ...init, slots })
    return new Capture(job, { ...init, slots }, components.wayOf)
  }

  /** One round: frames of pages that changed since they were last seen. */
  async *round(
    round: number,
    { batchPages, mayRefer, linkBytesPerMs }: LinkHints,
    signal: AbortSignal,
  ): AsyncGenerator<CapturedFrame> {
    const found = await this.way.begin(signal)
    const words = { private: found.private.words(), candidates: found.candidates.words() }
    const begun = this.#job.call('begin', [
      { ...words, round, mayRefer, batchPages: Math.min(batchPages, MAX_BATCH_PAGES) },
    ])
    begun.catch(() => {})
    const ahead: { slot: number; answer: Promise<CapturedBatch> }[] = []
    const ask = (slot: number): void => {
      const answer = this.#job.call('next', [slot, linkBytesPerMs()])
      // Of those asked for ahead, one may fail before it is waited for.
      answer.catch(() => {})
      ahead.push({ slot, answer })
    }
    for (let slot = 0; slot < this.#slots.length; slot++) ask(slot)
    await begun
    for (;;) {
      const { slot, answer } = ahead.shift()!
      const batch = await answer
      signal.throwIfAborted()
      if (batch.frameBytes > 0)
        yield { ...batch, bytes: new Uint8Array(this.#slots[slot]!, 0, batch.frameBytes) }
      if (batch.isLast) break
      ask(slot)
    }
    // What was asked for beyond the end is empty.
    await Promise.all(ahead.map(({ answer }) => answer))
  }

  /** SHA-256 over all pages that the destination holds from us. */
  digest(): Promise<Uint8Array> {
    return this.#job.call('digest', [])
  }

  /** See CaptureJob.hashing(). */
  hashing(): Promise<{ seed: number; baseline: Uint8Array | null }> {
    return this.#job.call('hashing', [])
  }

  /** See CaptureJob.accepted(). */
  accepted(there: { baseline: boolean; siblings: Uint8Array }): Promise<void> {
    return this.#job.call('accepted', [there])
  }

  /** See CaptureJob.lose(). */
  async lose(bits: Uint8Array): Promise<number> {
    return bits.length === 0 ? 0 : this.#job.call('lose', [bits])
  }

  /** See CaptureJob.loseBaseline(). */
  loseBaseline(): Promise<void> {
    return this.#job.call('loseBaseline', [])
  }

  /** See CaptureJob.keep(). */
  async keep(path: string): Promise<void> {
    while (!(await this.#job.call('keep', [path])));
  }

  /** See CaptureJob.summary(). */
  summary(pageHashesPath: string): Promise<CaptureSummary> {
    return this.#job.call('summary', [pageHashesPath])
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.way.close()
    await this.#job[Symbol.asyncDispose]()
  }
}

export type MakeWay = (job: Job<CaptureJob>, freeze: Freeze) => CaptureWay
