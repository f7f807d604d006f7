import { rm } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import type { NicSpec, ProcessIdentity } from '../domain/vm.ts'
import { grantLaunch } from './access.ts'
import { bounded, type Wait } from './bounded.ts'
import { readDiskFormat } from './disk-image.ts'
import { QemuError } from './errors.ts'
import { IncomingStream } from './incoming-stream.ts'
import { type QemuLaunch, qemuArguments, socketChardev } from './launch.ts'
import { nicDevice, nicNetdev } from './nic.ts'
import { OutgoingMigration } from './outgoing-migration.ts'
import type { QemuBinary } from './probe.ts'
import { isRunning, readCommandLine, readProcessIdentity, signalProcess } from './process-identity.ts'
import { connectQmpWhenListening, QmpClient } from './qmp.ts'
import {
  LAST_WORDS_TIMEOUT_MS,
  prepareRunDir,
  type RunPaths,
  readLogTail,
  runPaths,
  takeFromRunDir,
} from './run-dir.ts'
import { endsBySelf, exitError, spawnQemu, waitForExit } from './spawn.ts'
import { connectIncoming, loadState, migrationEnd, saveState, setCapabilities } from './state-transfer.ts'

/** QEMU answers 50 ms after it was started; a busy node takes longer. */
const START_TIMEOUT_MS = 20_000
const CONNECT_RETRY_MS = 2
/** A state file has some 300 KB; what takes long is a loaded node. */
const STATE_TIMEOUT_MS = 30_000
const LOADED_TIMEOUT_MS = 30_000
/** How long `quit` waits for each of QMP, SIGTERM and SIGKILL. Disks are flushed in it. */
const QUIT_STEP_TIMEOUT_MS = 5000
/** An adopted process is nobody's child: whether it lives must be asked. */
const LIVENESS_INTERVAL_MS = 1000
/** One page of 64: enough to tell a MiB/s, which is all that QEMU tells. */
const DIRTY_RATE_SAMPLE = { 'calc-time': 1, 'sample-pages': 4096 }
/** QEMU closes its control socket milliseconds before it is gone. */
const EXIT_INTERVAL_MS = 10

/**
 * A QEMU that runs, started by this agent or by an earlier one. It lives on
 * when the agent ends: `disconnect` lets go of it, `quit` ends it.
 */
export class QemuProcess {
  readonly identity: ProcessIdentity
  readonly runDir: string
  readonly qmp: QmpClient
  /** Resolves when the process is gone, for whatever reason; stays pending after `disconnect`. */
  readonly exited: Promise<void>
  readonly #paths: RunPaths
  readonly #disconnected = new AbortController()

  private constructor(init: {
    identity: ProcessIdentity
    runDir: string
    qmp: QmpClient
    exited: Promise<void> | null
  }) {
    this.identity = init.identity
    this.runDir = init.runDir
    this.qmp = init.qmp
    this.#paths = runPaths(init.runDir)
    this.exited = init.exited ?? this.#watch()
  }

  /**
   * Starts QEMU, paused, and connects to it. When that fails or is aborted, the
   * process is gone. One that runs as another user is let at the files of the
   * launch, and at nothing else.
   *
   * @throws QemuError QEMU_EXITED (details: log, QEMU's last lines), QEMU_NOT_FOUND,
   *   QEMU_NOT_USABLE, QMP_TIMEOUT, and what `qemuArguments` throws
   */
  static async start(
    binary: QemuBinary,
    launch: QemuLaunch,
    { signal }: { signal?: AbortSignal | undefined } = {},
  ): Promise<QemuProcess> {
    signal?.throwIfAborted()
    const args = qemuArguments(binary, await withDiskFormat(launch))
    const { user = null } = binary
    if (user !== null) await grantLaunch(binary, launch, user)
    const paths = await prepareRunDir(launch.runDir, user)
    const child = await spawnQemu(binary.path, args, { logPath: paths.log, user })
    const gone = new AbortController()
    const exited = waitForExit(child)
    void exited.then(() => gone.abort())
    try {
      const either = signal === undefined ? gone.signal : AbortSignal.any([signal, gone.signal])
      const wait = { timeoutMs: START_TIMEOUT_MS, retryMs: CONNECT_RETRY_MS, signal: either }
      const [identity, qmp] = await Promise.all([
        readProcessIdentity(child.pid!),
        connectQmpWhenListening(paths.qmp, wait),
      ])
      if (identity === null) throw new QemuError('QMP_CLOSED', 'QEMU ended while it was connected to')
      return new QemuProcess({ identity, runDir: launch.runDir, qmp, exited })
    } catch (cause) {
      if (!signal?.aborted && (await endsBySelf(cause, exited)))
        throw await exitError(child, binary.path, paths.log)
      child.kill('SIGKILL')
      await exited
      signal?.throwIfAborted()
      throw cause
    }
  }

  /**
   * Finds a QEMU again that an earlier agent started.
   *
   * @returns null when that process is gone, or isn't the QEMU of this run directory
   * @throws QemuError QMP_TIMEOUT, QMP_CLOSED when it runs and doesn't answer
   */
  static async adopt(
    identity: ProcessIdentity,
    runDir: string,
    { signal }: { signal?: AbortSignal | undefined } = {},
  ): Promise<QemuProcess | null> {
    const paths = runPaths(runDir)
    const args = await readCommandLine(identity.pid)
    if (!args.includes(socketChardev('qmp', paths.qmp)) || !(await isRunning(identity))) return null
    // An agent that died while it looked at frozen memory has left it so.
    await signalProcess(identity, 'SIGCONT')
    try {
      const qmp = await QmpClient.connect(paths.qmp, { signal })
      // So has one that died while QEMU waited for it to go on with a migration.
      await qmp.execute('migrate_cancel', undefined, { signal })
      return new QemuProcess({ identity, runDir, qmp, exited: null })
    } catch (error) {
      if (!(await isRunning(identity))) return null
      throw error
    }
  }

  get pid(): number {
    return this.identity.pid
  }

  /** Unix socket of the serial console; serves one client at a time. */
  get consoleSocket(): string {
    return this.#paths.console
  }

  /** QEMU's run state, such as `running`, `paused`, `inmigrate`, `postmigrate`, `shutdown`, `internal-error`. */
  async status(wait: Wait = {}): Promise<string> {
    const { status } = await this.qmp.execute('query-status', undefined, wait)
    return status
  }

  /** Stops the guest; its clocks stand still. */
  async pause(wait: Wait = {}): Promise<void> {
    await this.qmp.execute('stop', undefined, wait)
  }

  /** Lets the guest run; takes back the disks if `saveDeviceState` gave them up. */
  async resume(wait: Wait = {}): Promise<void> {
    await this.qmp.execute('cont', undefined, wait)
  }

  /**
   * How fast the guest wrote pages when QEMU sampled them last, in bytes per second (whole MiB; 0 of a guest
   * below 128 MiB, which it doesn't sample); null: it hasn't yet.
   * Has it sample them again, for a second, which costs its other threads some 10 ms.
   */
  async sampleDirtyRate(wait: Wait = {}): Promise<number | null> {
    const { status, 'dirty-rate': mibPerSecond } = await this.qmp.execute('query-dirty-rate', undefined, wait)
    if (status !== 'measuring') await this.qmp.execute('calc-dirty-rate', DIRTY_RATE_SAMPLE, wait)
    return status === 'measured' && mibPerSecond !== undefined ? mibPerSecond * 1024 ** 2 : null
  }

  /** Presses the reset button. */
  async reset(wait: Wait = {}): Promise<void> {
    await this.qmp.execute('system_reset', undefined, wait)
  }

  /** Presses the power button (ACPI): the guest decides; QEMU ends when it has shut down. */
  async powerDown(wait: Wait = {}): Promise<void> {
    await this.qmp.execute('system_powerdown', undefined, wait)
  }

  /**
   * Ends QEMU: by QMP, then SIGTERM, then SIGKILL. Resolves when it is gone.
   *
   * @param options.timeoutMs - for each of the three; 0 kills at once
   */
  async quit({ timeoutMs = QUIT_STEP_TIMEOUT_MS }: { timeoutMs?: number | undefined } = {}): Promise<void> {
    const steps = [
      () => this.qmp.execute('quit', undefined, { timeoutMs }),
      // A stopped process doesn't hear SIGTERM.
      async () => (await this.#signal('SIGCONT')) && (await this.#signal('SIGTERM')),
      () => this.#signal('SIGKILL'),
    ]
    for (const step of timeoutMs === 0 ? steps.slice(-1) : steps) {
      // A command that fails, because QEMU hangs or is gone already, leads to the next step.
      await Promise.allSettled([step()])
      if (await this.#isGoneWithin(Math.max(timeoutMs, EXIT_INTERVAL_MS * 10))) break
    }
    await this.disconnect()
  }

  /** Lets go of QEMU, which runs on; an agent that ends does this. */
  async disconnect(): Promise<void> {
    this.#disconnected.abort()
    await this.qmp.close()
  }

  /**
   * Saves the state of the paused VM without its RAM, which is in the template's
   * file. QEMU can do nothing more than quit afterwards; syncing is the caller's.
   *
   * @throws QemuError QEMU_STATE_NOT_SAVED, QMP_TIMEOUT; the file is gone then
   */
  async saveTemplateState(
    filePath: string,
    { signal, timeoutMs = STATE_TIMEOUT_MS }: Wait = {},
  ): Promise<void> {
    const { running } = await this.qmp.execute('query-status', undefined, { signal })
    if (running)
      throw new QemuError('QEMU_STATE_NOT_SAVED', 'the VM runs: pause it before its state is saved')
    await saveState(this.qmp, { socketPath: this.#paths.outgoing, filePath, timeoutMs, signal })
  }

  /**
   * Loads a template's state into a QEMU that was started `incoming` with the
   * template's RAM. The clone is paused then.
   *
   * @throws QemuError INCOMING_FAILED; best quit afterwards
   */
  async loadTemplateState(
    filePath: string,
    { signal, timeoutMs = STATE_TIMEOUT_MS }: Wait = {},
  ): Promise<void> {
    try {
      await loadState(this.qmp, { socketPath: this.#paths.incoming, filePath, timeoutMs, signal })
    } catch (cause) {
      signal?.throwIfAborted()
      throw await this.#explainIncoming(cause)
    }
  }

  /**
   * Device state of the paused VM, for `IncomingStream.finish` and
   * `deriveStateFile`.
   *
   * @param options.releaseDisks - gives up the disks, so that a destination may open them; `resume` takes them
   *   back. False where the VM stays here.
   * @throws QemuError QEMU_DISK_NOT_RELEASED
   */
  async saveDeviceState({
    releaseDisks = true,
    ...wait
  }: Wait & { releaseDisks?: boolean } = {}): Promise<Buffer> {
    const filename = this.#paths.deviceState
    try {
      await this.qmp.execute('xen-save-devices-state', { filename, live: releaseDisks }, wait)
      // From 10.0 on a disk that could not be given up is no error of that command.
      const nodes =
        !releaseDisks || this.qmp.version.major < 10
          ? []
          : await this.qmp.execute('query-named-block-nodes', { flat: true }, wait)
      const kept = nodes.filter(({ active }) => active === true).map((node) => node['node-name'] ?? node.drv)
      if (kept.length > 0) {
        throw new QemuError('QEMU_DISK_NOT_RELEASED', `QEMU holds on to ${kept.join(', ')}`, {
          details: { nodes: kept },
        })
      }
      return takeFromRunDir(filename)
    } catch (error) {
      await rm(filename, { force: true })
      throw error
    }
  }

  /**
   * Opens the way in of a QEMU that was started `incoming`, for a VM that arrives.
   *
   * @throws QemuError QMP_ERROR when it was not started so, or something was loaded already
   */
  async openIncoming({ signal }: { signal?: AbortSignal | undefined } = {}): Promise<IncomingStream> {
    await setCapabilities(this.qmp, { events: true }, signal)
    const after = this.qmp.eventCount
    const socket = await connectIncoming(this.qmp, this.#paths.incoming, signal)
    return new IncomingStream(socket, {
      loaded: async ({ timeoutMs = LOADED_TIMEOUT_MS, signal }) => {
        try {
          const status = await migrationEnd(this.qmp, { after, timeoutMs, signal })
          if (status !== 'completed') throw new QemuError('INCOMING_FAILED', `loading the VM ${status}`)
        } catch (cause) {
          signal?.throwIfAborted()
          throw await this.#explainIncoming(cause)
        }
      },
      explain: (cause) => this.#explainIncoming(cause),
    })
  }

  /** Where somebody listens whom QEMU sends the VM to: see listenForQemu(). */
  get outgoingSocket(): string {
    return this.#paths.outgoing
  }

  /**
   * Has QEMU send the VM to `outgoingSocket`.
   *
   * @throws QemuError QMP_ERROR, also where nobody listens
   */
  startOutgoing({ signal }: { signal?: AbortSignal | undefined } = {}): Promise<OutgoingMigration> {
    return OutgoingMigration.start(this.qmp, `unix:${this.outgoingSocket}`, { signal })
  }

  /** The vmgenid that the guest sees, a UUID. */
  async generationId(wait: Wait = {}): Promise<string> {
    const { guid } = await this.qmp.execute('query-vm-generation-id', undefined, wait)
    return guid
  }

  /**
   * Plugs a NIC into its root port. The guest finds it about two seconds later.
   *
   * @throws QemuError QMP_ERROR when the slot or a forwarded port is taken; nothing is left behind
   */
  async addNic(nic: NicSpec, { signal }: { signal?: AbortSignal | undefined } = {}): Promise<void> {
    const netdev = nicNetdev(nic)
    const device = nicDevice(nic)
    await this.qmp.execute('netdev_add', netdev, { signal })
    try {
      await this.qmp.execute('device_add', device, { signal })
    } catch (error) {
      await this.qmp.execute('netdev_del', { id: netdev.id })
      throw error
    }
  }

  async #signal(signal: NodeJS.Signals): Promise<boolean> {
    return signalProcess(this.identity, signal)
  }

  async #isGoneWithin(timeoutMs: number): Promise<boolean> {
    try {
      await bounded(this.exited, { timeoutMs, timedOut: () => new Error('still there') })
      return true
    } catch {
      return false
    }
  }

  async #watch(): Promise<void> {
    const { signal } = this.#disconnected
    let isClosed = false
    void this.qmp.closed.then(() => {
      isClosed = true
    })
    // A look-up that fails, for want of file descriptors say, tells nothing: the process counts as running.
    while (await isRunning(this.identity).catch(() => true)) {
      if (signal.aborted) return new Promise(() => {})
      const nap = sleep(isClosed ? EXIT_INTERVAL_MS : LIVENESS_INTERVAL_MS, undefined, { ref: false })
      await (isClosed ? nap : Promise.race([nap, this.qmp.closed]))
    }
  }

  async #explainIncoming(cause: unknown): Promise<QemuError> {
    const isGone = await this.#isGoneWithin(LAST_WORDS_TIMEOUT_MS)
    const log = await readLogTail(this.#paths.log)
    // Up to 9.0 QEMU says why and ends; since then it lives and says it over QMP.
    const said = isGone ? log.at(-1) : await this.#migrationError()
    const reason = said ?? (cause instanceof Error ? cause.message : String(cause))
    return new QemuError('INCOMING_FAILED', `QEMU did not take the VM: ${reason}`, {
      cause,
      details: { reason, log },
    })
  }

  async #migrationError(): Promise<string | undefined> {
    const wait = { timeoutMs: LAST_WORDS_TIMEOUT_MS }
    const answer = await this.qmp.execute('query-migrate', undefined, wait).catch(() => null)
    return answer?.['error-desc']
  }
}

async function withDiskFormat(launch: QemuLaunch): Promise<QemuLaunch> {
  if (launch.disk === null) return launch
  const { basePath, overlayPath } = launch.disk
  if (overlayPath !== null) await readDiskFormat(overlayPath, { backing: 'allowed' })
  const baseFormat = await readDiskFormat(basePath, { backing: 'refused' })
  return { ...launch, disk: { ...launch.disk, baseFormat } }
}
