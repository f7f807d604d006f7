import { MAX_BATCH_PAGES } from '../codec/index.ts'
import { PageBitmap } from '../domain/bitmap.ts'
import type { PageCounts } from '../domain/vm.ts'
import type { DirtyTracker, ScannedMemory } from '../memory/index.ts'
import type { CapturedBatch, CaptureInit, CaptureJob } from './threads/capture-job.ts'
import type { Job, PageThreads } from './threads/page-threads.ts'

/**
 * Batches asked for ahead: while one is on its way out, the page thread makes
 * the next. More would only hold more.
 */
const BATCHES_AHEAD = 2

/** What a round may know of the link. */
export interface LinkHints {
  /** Most pages in a batch. */
  batchPages: number
  /** What the link was found to carry; null where it never was what took the time. */
  linkBytesPerMs: () => number | null
}

/** The pages of a running guest, round by round; the work is done in a page thread (CaptureJob). */
export class Capture implements AsyncDisposable {
  readonly #job: Job<CaptureJob>
  readonly #tracker: DirtyTracker
  readonly #memory: ScannedMemory

  private constructor(
    job: Job<CaptureJob>,
    init: CaptureInit,
    trackerFor: (memory: ScannedMemory) => DirtyTracker,
  ) {
    this.#job = job
    this.#memory = { pid: init.pid, scan: () => scan(job) }
    this.#tracker = trackerFor(this.#memory)
  }

  /** @throws MemoryError; MigrationError PAGE_THREAD_ENDED */
  static async open(
    components: { threads: PageThreads; trackerFor: (memory: ScannedMemory) => DirtyTracker },
    init: CaptureInit,
  ): Promise<Capture> {
    return new Capture(await components.threads.open('capture', init), init, components.trackerFor)
  }

  /** @throws MemoryError MEMORY_PROCESS_GONE */
  async counts(): Promise<PageCounts> {
    return (await this.#memory.scan()).counts
  }

  /** One round: batches of pages that changed since they were last seen, encoded. Possibly empty ones. */
  async *round({ batchPages, linkBytesPerMs }: LinkHints): AsyncGenerator<CapturedBatch> {
    const found = await this.#tracker.next()
    const words = { private: found.private.words(), candidates: found.candidates.words() }
    const begun = this.#job.call('begin', [{ ...words, batchPages: Math.min(batchPages, MAX_BATCH_PAGES) }])
    begun.catch(() => {})
    const ahead: Promise<CapturedBatch>[] = []
    const ask = (): void => {
      const batch = this.#job.call('next', [linkBytesPerMs()])
      // Of those asked for ahead, one may fail before it is waited for.
      batch.catch(() => {})
      ahead.push(batch)
    }
    for (let i = 0; i < BATCHES_AHEAD; i++) ask()
    await begun
    for (;;) {
      const batch = await ahead.shift()!
      if (batch.isLast) {
        if (batch.groups.length > 0) yield batch
        // What was asked for beyond the end is empty.
        await Promise.all(ahead)
        return
      }
      ask()
      if (batch.groups.length > 0) yield batch
    }
  }

  /** SHA-256 over all pages that the destination holds from us. */
  digest(): Promise<Uint8Array> {
    return this.#job.call('digest', [])
  }

  /** See CaptureJob.summary(). */
  summary(pageHashesPath: string): Promise<{ private: number; omitted: number; stockPages: number }> {
    return this.#job.call('summary', [pageHashesPath])
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#job[Symbol.asyncDispose]()
  }
}

async function scan(job: Job<CaptureJob>): ReturnType<ScannedMemory['scan']> {
  const { counts, ...words } = await job.call('scan', [])
  return {
    private: PageBitmap.of(counts.guest, words.private),
    softDirty: PageBitmap.of(counts.guest, words.softDirty),
    counts,
  }
}
