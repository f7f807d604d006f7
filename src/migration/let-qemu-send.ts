import { PageBitmap } from '../domain/bitmap.ts'
import { PAGE_BYTES } from '../domain/page.ts'
import { type GuestLocation, mostPrivatePages } from '../memory/index.ts'
import {
  isMovable,
  type OutgoingMigration,
  preflight,
  QemuError,
  type QemuProcess,
  savedRunState,
} from '../qemu/index.ts'
import type { CaptureWay, LastRound } from './capture.ts'
import { type ExtraBlock, ExtraBlocks } from './extra-blocks.ts'
import type { CaptureJob } from './threads/capture-job.ts'
import type { Job } from './threads/page-threads.ts'

/**
 * Lets QEMU send the guest to this agent, by its own `migrate`: for hosts where
 * its memory can't be read, and for guests with more of it than main RAM. All of
 * it comes through a socket, and what equals the template is dropped here. A
 * pass of QEMU's is a round: it ends when QEMU begins the next, or stops the
 * guest.
 */
export class LetQemuSend implements CaptureWay {
  readonly mayStopItself = true
  readonly mayKeep = false
  readonly #process: QemuProcess
  readonly #job: Job<CaptureJob>
  readonly #guest: GuestLocation
  readonly #pages: number
  readonly #captured: readonly string[]
  readonly #passEnded: Int32Array<SharedArrayBuffer>
  #migration: OutgoingMigration | null = null
  #isLastRound = false
  #onStopped: () => void = () => {}
  #stoppedAtMs: number | null = null

  constructor(
    components: { process: QemuProcess; job: Job<CaptureJob> },
    init: { guest: GuestLocation; extraBlocks: readonly ExtraBlock[]; passEnded: SharedArrayBuffer },
  ) {
    this.#process = components.process
    this.#job = components.job
    this.#guest = init.guest
    const ramPages = init.guest.memoryBytes / PAGE_BYTES
    this.#pages = ramPages + new ExtraBlocks(ramPages, init.extraBlocks).pages
    this.#captured = init.extraBlocks.map(({ name }) => name)
    this.#passEnded = new Int32Array(init.passEnded)
  }

  get stoppedAtMs(): number | null {
    return this.#stoppedAtMs ?? this.#migration?.stoppedAtMs ?? null
  }

  onStopped(listener: () => void): void {
    this.#onStopped = listener
  }

  async privatePages(): Promise<number> {
    return mostPrivatePages(this.#guest)
  }

  async begin(signal: AbortSignal): Promise<{ private: PageBitmap; candidates: PageBitmap }> {
    if (this.#migration === null) {
      this.#migration = await this.#process.startOutgoing({ signal })
      this.#migration.onPass(() => this.#passed())
    }
    this.#migration.throwIfEnded()
    // Of a guest that stands still no other pass comes: what is there is its round.
    this.#endPass(this.stoppedAtMs !== null)
    // Of a page that QEMU sends nobody asks whether it is private.
    const all = PageBitmap.of(this.#pages, new Uint32Array(Math.ceil(this.#pages / 32)).fill(2 ** 32 - 1))
    return { private: all, candidates: new PageBitmap(this.#pages) }
  }

  async stop(signal: AbortSignal): Promise<void> {
    this.#stoppedAtMs ??= this.stoppedAtMs ?? performance.now()
    await Promise.all([
      preflight(this.#process, { signal, captured: this.#captured }),
      this.#process.pause({ signal }),
    ])
  }

  async finish<T>(
    sendRound: () => Promise<T>,
    onSaved: () => void,
    signal: AbortSignal,
  ): Promise<LastRound<T>> {
    this.#isLastRound = true
    const [round] = await Promise.all([sendRound(), this.#migration!.complete({ signal })])
    onSaved()
    const deviceState = await this.#job.call('sentState', [])
    const runState = savedRunState(deviceState)
    if (runState === null || !isMovable(runState)) {
      throw new QemuError('NOT_MOVABLE', `the VM can't be moved: the guest is ${runState}`, {
        details: { reasons: [`the guest is ${runState}`] },
      })
    }
    const compressedState = await this.#job.call('compressState', [deviceState])
    return { round, compressedState, deviceStateBytes: deviceState.length }
  }

  #passed(): void {
    this.#endPass(true)
    if (this.stoppedAtMs !== null) this.#onStopped()
  }

  /** The last round ends where the stream does. */
  #endPass(hasEnded: boolean): void {
    Atomics.store(this.#passEnded, 0, hasEnded && !this.#isLastRound ? 1 : 0)
  }

  async release(): Promise<void> {
    await this.#migration?.cancel()
  }

  close(): void {
    this.#migration?.[Symbol.dispose]()
  }
}
