import type { Accelerator } from '../domain/template.ts'
import { bounded, type Wait } from './bounded.ts'
import { QemuError } from './errors.ts'
import type { QmpClient } from './qmp.ts'
import type { QemuVersion, QmpEvent } from './qmp-commands.ts'
import { isMigrationEnd, setCapabilities } from './state-transfer.ts'
import { isAtLeast } from './version.ts'

/** Until it is asked QEMU hands over only what is nothing: less than a page. */
const NOTHING_LEFT = { downtimeMs: 1, bytesPerSecond: 1000 }
/** The most that QEMU takes: it hands over whatever is left. */
const WHATEVER_IS_LEFT = { downtimeMs: 2_000_000, bytesPerSecond: 2 ** 40 }
/** QEMU looks at its limits after each buffer that it has sent. */
const SWITCHOVER_TIMEOUT_MS = 10_000
const CANCEL_TIMEOUT_MS = 5_000

/** First version that takes `avail-switchover-bandwidth`. */
const SWITCHOVER_BANDWIDTH_SINCE = [8, 2] as const

/**
 * QEMU's own `migrate`, into a socket that somebody else reads. QEMU sends all
 * of RAM, then again and again what was written meanwhile, until the guest is
 * stopped.
 *
 *     start → pass 1, pass 2, ... → stop → complete → completed
 *
 * QEMU stops a guest by itself that has written nothing in a pass. Until it has
 * completed, `cancel` ends the migration.
 *
 * Under TCG QEMU forgets what is written to a page that was to be sent when it
 * asked last what was written, if all that it found then was to be sent already
 * (physical_memory_sync_dirty_bitmap, as its sources read: it clears the bits,
 * and leaves the TLB as it is). With 7.2, 3 of 52 moves lost pages; with 10.0
 * and these limits, none of 40. So it may ask only where nothing is left to be
 * sent, or while the guest stands still; and that can't be had of a version
 * that asks as soon as less is left than the link carries in a millisecond: see
 * `isSound`.
 */
export class OutgoingMigration implements Disposable {
  readonly #qmp: QmpClient
  readonly #listening: Disposable
  readonly #isHandingOver = Promise.withResolvers<void>()
  readonly #ended = Promise.withResolvers<void>()
  #onPass: () => void = () => {}
  #stoppedAtMs: number | null = null
  #endedAs: string | null = null

  private constructor(qmp: QmpClient) {
    this.#qmp = qmp
    this.#listening = qmp.listen((event) => this.#onEvent(event))
    this.#isHandingOver.promise.catch(() => {})
    void qmp.closed.then(() => this.#end('failed'))
  }

  /**
   * @param uri - where QEMU connects to
   * @throws QemuError QMP_ERROR
   */
  static async start(
    qmp: QmpClient,
    uri: string,
    { signal }: { signal?: AbortSignal | undefined } = {},
  ): Promise<OutgoingMigration> {
    await setCapabilities(qmp, { events: true, 'pause-before-switchover': true }, signal)
    await setLimits(qmp, NOTHING_LEFT, signal)
    const migration = new OutgoingMigration(qmp)
    try {
      await qmp.execute('migrate', { uri }, { signal })
      return migration
    } catch (error) {
      migration[Symbol.dispose]()
      throw error
    }
  }

  /** Whether nothing is lost in it: see above. */
  static isSound(qmp: QmpClient, accelerator: Accelerator): boolean {
    return accelerator === 'kvm' || takesSwitchoverBandwidth(qmp.version)
  }

  /** When QEMU stopped the guest, as performance.now() tells; null: it runs. */
  get stoppedAtMs(): number | null {
    return this.#stoppedAtMs
  }

  /** @throws QemuError QEMU_MIGRATION_FAILED when QEMU sends no more */
  throwIfEnded(): void {
    if (this.#endedAs !== null) throw this.#failure(this.#endedAs)
  }

  /** Called whenever all that was written until then has been sent, and the next pass begins; or the guest was stopped. */
  onPass(listener: () => void): void {
    this.#onPass = listener
  }

  /**
   * Has QEMU send the rest of RAM, whatever it is, and the devices; the guest stands still. Somebody must go on
   * reading; the stream ends then.
   *
   * @throws QemuError QMP_TIMEOUT, QEMU_MIGRATION_FAILED
   */
  async complete({ signal }: Wait = {}): Promise<void> {
    await setLimits(this.#qmp, WHATEVER_IS_LEFT, signal)
    await bounded(this.#isHandingOver.promise, {
      timeoutMs: SWITCHOVER_TIMEOUT_MS,
      signal,
      timedOut: () => new QemuError('QMP_TIMEOUT', `QEMU hands nothing over in ${SWITCHOVER_TIMEOUT_MS} ms`),
    })
    await this.#qmp.execute('migrate-continue', { state: 'pre-switchover' }, { signal })
  }

  /** A guest that QEMU has stopped by itself goes on; where it has completed, or was asked to, it may be resumed. */
  async cancel(): Promise<void> {
    if (this.#endedAs === null) {
      await this.#qmp.execute('migrate_cancel', undefined, { timeoutMs: CANCEL_TIMEOUT_MS })
      const timedOut = () => new QemuError('QMP_TIMEOUT', 'QEMU does not end its migration')
      await bounded(this.#ended.promise, { timeoutMs: CANCEL_TIMEOUT_MS, timedOut })
    }
    await setCapabilities(this.#qmp, { 'pause-before-switchover': false })
  }

  [Symbol.dispose](): void {
    this.#listening[Symbol.dispose]()
  }

  #onEvent(event: QmpEvent): void {
    const { status } = event.data
    if (event.event === 'STOP') this.#stoppedAtMs ??= eventAtMs(event)
    // Told when a pass begins: the first one ends none.
    if (event.event === 'MIGRATION_PASS' && event.data.pass !== 1) this.#onPass()
    if (event.event !== 'MIGRATION') return
    if (status === 'pre-switchover') {
      // A guest that its user had paused isn't stopped once more.
      this.#stoppedAtMs ??= eventAtMs(event)
      this.#isHandingOver.resolve()
      this.#onPass()
    }
    if (isMigrationEnd(event)) this.#end(String(status))
  }

  #end(status: string): void {
    this.#endedAs ??= status
    this.#ended.resolve()
    this.#isHandingOver.reject(this.#failure(status))
    this.#onPass()
  }

  #failure(status: string): QemuError {
    return new QemuError('QEMU_MIGRATION_FAILED', `QEMU's migration ${status}`, { details: { status } })
  }
}

/** What QEMU takes for little enough: what it sends in the time, at the rate that it found or, if it can be told, at this. */
async function setLimits(
  qmp: QmpClient,
  { downtimeMs, bytesPerSecond }: { downtimeMs: number; bytesPerSecond: number },
  signal: AbortSignal | undefined,
): Promise<void> {
  const rate = takesSwitchoverBandwidth(qmp.version) ? { 'avail-switchover-bandwidth': bytesPerSecond } : {}
  const limits = { 'max-bandwidth': 0, 'downtime-limit': downtimeMs, ...rate }
  await qmp.execute('migrate-set-parameters', limits, { signal })
}

function takesSwitchoverBandwidth({ major, minor }: QemuVersion): boolean {
  return isAtLeast([major, minor], SWITCHOVER_BANDWIDTH_SINCE)
}

/** On performance.now()'s scale: a busy event loop hears of an event late. */
function eventAtMs({ timestamp }: QmpEvent): number {
  const { seconds, microseconds } = timestamp
  const agoMs = Date.now() - (seconds * 1000 + microseconds / 1000)
  return performance.now() - Math.max(0, agoMs)
}
