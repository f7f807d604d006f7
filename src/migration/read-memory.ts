import { PageBitmap } from '../domain/bitmap.ts'
import type { DirtyTracker, Freeze, ScannedMemory } from '../memory/index.ts'
import { preflight, type QemuProcess } from '../qemu/index.ts'
import type { CaptureWay, LastRound } from './capture.ts'
import type { CaptureJob } from './threads/capture-job.ts'
import type { Job } from './threads/page-threads.ts'

/** Reads the guest's memory from outside; QEMU takes no part in it until the guest is stopped. */
export class ReadMemory implements CaptureWay {
  readonly mayStopItself = false
  readonly mayKeep = true
  readonly #process: QemuProcess
  readonly #job: Job<CaptureJob>
  readonly #memory: ScannedMemory
  readonly #tracker: DirtyTracker
  #stoppedAtMs: number | null = null

  constructor(
    components: {
      process: QemuProcess
      job: Job<CaptureJob>
      freeze: Freeze
    },
    { trackerFor }: { trackerFor: (memory: ScannedMemory) => DirtyTracker },
  ) {
    const { process, job, freeze } = components
    this.#process = process
    this.#job = job
    this.#memory = { pid: process.pid, freeze, scan: () => scan(job) }
    this.#tracker = trackerFor(this.#memory)
  }

  get stoppedAtMs(): number | null {
    return this.#stoppedAtMs
  }

  onStopped(): void {}

  async privatePages(): Promise<number> {
    return (await this.#memory.scan()).counts.private
  }

  begin(): Promise<{ private: PageBitmap; candidates: PageBitmap }> {
    return this.#tracker.next()
  }

  /**
   * The guest was fit when the move began: one that has fallen asleep or panicked since would be woken, dead. QEMU
   * takes one command after the other: it looks, and stops the guest, without a way to here and back between.
   */
  async stop(signal: AbortSignal): Promise<void> {
    this.#stoppedAtMs = performance.now()
    await Promise.all([preflight(this.#process, { signal }), this.#process.pause({ signal })])
  }

  /** The device state is saved before the last scan, as saving may write guest memory. */
  async finish<T>(
    sendRound: () => Promise<T>,
    onSaved: () => void,
    signal: AbortSignal,
  ): Promise<LastRound<T>> {
    const deviceState = await this.#process.saveDeviceState({ signal })
    onSaved()
    // In this order: the page thread begins with the scan, and compresses while the last round goes out.
    const [round, compressedState] = await Promise.all([
      sendRound(),
      this.#job.call('compressState', [deviceState]),
    ])
    return { round, compressedState, deviceStateBytes: deviceState.length }
  }

  async release(): Promise<void> {}

  close(): void {}
}

async function scan(job: Job<CaptureJob>): ReturnType<ScannedMemory['scan']> {
  const { counts, ...words } = await job.call('scan', [])
  return {
    private: PageBitmap.of(counts.guest, words.private),
    softDirty: PageBitmap.of(counts.guest, words.softDirty),
    counts,
  }
}
