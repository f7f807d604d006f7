import { rm } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { errorBody } from '../domain/errors.ts'
import { Turns } from '../domain/turns.ts'
import {
  type Doubt,
  doubtOf,
  type MigrationId,
  type VmRecord,
  type VmState,
  type VmWishes,
} from '../domain/vm.ts'
import type { QemuProcess } from '../qemu/index.ts'
import { notDerivable } from './derivable.ts'
import { endProcess } from './end-process.ts'
import type { VM_ERRORS, VmError } from './errors.ts'
import type { OwnVmEvent, VmEventListener } from './events.ts'
import { exitReason } from './exit-reason.ts'
import { keepTrying } from './keep-trying.ts'
import type { DatabaseWrite, VmRecords } from './records.ts'
import { findProcess, reconcileGuest, resumeGuest } from './recover.ts'
import {
  requireMoving,
  requireNotMoving,
  requireRunning,
  type StateOf,
  stopReason,
  vmError,
} from './refusals.ts'
import type { SealLoan } from './seal-loan.ts'
import type { VmDirectories } from './vm-directory.ts'

type Without<Event, Key extends PropertyKey> = Event extends unknown ? Omit<Event, Key> : never

export interface VmComponents {
  records: VmRecords
  directories: VmDirectories
  onEvent: VmEventListener
  /** Whether this very VM is on its way back to this node. */
  isArriving: () => boolean
  /** Takes the VM out of the node's list. */
  forget: (vm: Vm) => void
  /** Aborted when the agent stops. */
  stopping: AbortSignal
}

/**
 * One VM of this node: its record, its QEMU, and every change of either.
 *
 *   running --depart--> departing --doubt--> in-doubt
 *      ^                    |                   |
 *      +-------- stay ------+-------------------+
 *                           +----- leave -------+--> no record
 *
 *   A QEMU that ends leads from each of them to `stopped`; `remove` leads from there to no record. Ended in doubt,
 *   the doubt is kept: then `stay` ends it, and `leave`, or the VM's coming back, leads to no record of this object.
 *
 * The record on disk says what is meant to be, and it is written before the
 * guest is touched: that write is the commit point of every command. After a
 * crash the guest is brought to where the record says (recover.ts).
 *
 * When the disk refuses that write, a command fails and changes nothing. What
 * is so anyway is so without it: a QEMU that has ended, a VM that stays here, a
 * VM that another node owns. That is told as `vm-record-not-written`, and the
 * write is tried until it succeeds or the agent stops. Each such record leads
 * the next start to the same end: a process that is gone is found gone, a move
 * that was under way is off, a doubt is asked for again.
 *
 * Commands on one VM wait for each other; each is bounded by QMP's time-outs.
 */
export class Vm {
  readonly runDir: string
  readonly #components: VmComponents
  readonly #turns = new Turns()
  #record: VmRecord
  #process: QemuProcess | null = null
  /** Resolves when the end of the present process is in the record. */
  #ended: Promise<void> = Promise.resolve()
  /** This object no longer speaks for the VM: it left, was removed, or came back as another one. */
  #retired = false
  /** A template is being made of it: no move may begin. */
  #isLentToSeal = false
  /** The disk has not taken what the record says. */
  #isBehind = false
  /** The move whose destination owns the VM, while the disk doesn't let go of its record. */
  #leaving: MigrationId | null = null
  #isCatchingUp = false

  constructor(components: VmComponents, init: { record: VmRecord; runDir: string }) {
    this.#components = components
    this.#record = init.record
    this.runDir = init.runDir
  }

  get record(): VmRecord {
    return this.#record
  }

  /** Null while the VM is stopped, or its QEMU can't be reached. */
  get process(): QemuProcess | null {
    return this.#process
  }

  /** Takes charge of a QEMU: from now on its end changes the record. */
  attach(process: QemuProcess): void {
    this.#process = process
    this.#ended = process.exited.then(() => this.#turns.run(() => this.#onExit(process)))
  }

  /**
   * Finds the VM's QEMU again after a restart of the agent, and brings guest
   * and record together. A move that was under way is off: nothing was granted
   * before the doubt was on disk. A VM in doubt is left as it is.
   */
  recover(): Promise<void> {
    return this.#turns.run(async () => {
      const { state } = this.#record
      if (state.kind === 'stopped') return
      const found = await findProcess(state.process, this.runDir)
      if (found.kind === 'gone') return this.#saveStopped(found.reason)
      if (state.kind === 'departing') {
        await this.#become({ kind: 'running', process: state.process, paused: state.paused })
      }
      if (found.kind === 'unreachable') {
        this.#emit({ kind: 'vm-unreachable', reason: found.reason })
        return
      }
      this.attach(found.process)
      this.#emit({ kind: 'vm-adopted' })
      if (state.kind === 'in-doubt') return
      try {
        await reconcileGuest(found.process, state)
      } catch (error) {
        // One VM that QEMU won't let go on must not keep an agent from starting.
        this.#emit({ kind: 'vm-unreachable', reason: (error as Error).message })
      }
    })
  }

  /** Another object speaks for the VM now: it came back, and the record is that one's. */
  retire(): void {
    this.#retired = true
  }

  /**
   * Lets the VM come back as another object, which writes its record over this
   * one's: in this one's turn, so that no `stay`, `leave` or `remove` comes
   * between the check and the write, or takes the new record for its own.
   *
   * @param check - throws when the record that is left stands in the way
   */
  giveWay(check: (record: VmRecord) => void, write: () => Promise<void>): Promise<void> {
    return this.#turns.run(async () => {
      if (!this.#retired) check(this.#record)
      await write()
      this.#retired = true
    })
  }

  /**
   * It did not come back, and another record may be on disk: writes what is so over that, and `also`. In its turn, so
   * that nothing is decided between the look at the record and the write.
   */
  writeAgain(also: readonly DatabaseWrite[]): Promise<void> {
    const { records } = this.#components
    return this.#turns.run(() => {
      if (this.#retired) return records.delete(this.#record.spec.id, also)
      return records.put(this.#record, also)
    })
  }

  /** Lets go of QEMU's control socket; the guest goes on. */
  release(): Promise<void> {
    return this.#turns.run(async () => {
      const process = this.#process
      this.#process = null
      await process?.disconnect()
    })
  }

  /** @throws VmError VM_STOPPED, VM_BUSY, VM_IN_DOUBT, VM_UNREACHABLE, as all commands */
  pause(signal: AbortSignal): Promise<void> {
    return this.#turns.run(async () => {
      const { state, process } = this.#commandable()
      await this.#mean({ ...state, paused: true }, () => process.pause({ signal }))
      this.#emit({ kind: 'vm-paused' })
    }, signal)
  }

  resume(signal: AbortSignal): Promise<void> {
    return this.#turns.run(async () => {
      const meant = { ...this.#commandable().state, paused: false }
      await this.#mean(meant, () => this.#requireGoingOn(meant, signal))
      this.#emit({ kind: 'vm-resumed' })
    }, signal)
  }

  reset(signal: AbortSignal): Promise<void> {
    return this.#turns.run(async () => {
      await this.#commandable().process.reset({ signal })
      this.#emit({ kind: 'vm-reset' })
    }, signal)
  }

  /**
   * Presses the power button and waits until the guest has switched itself
   * off. The wait is outside of the VM's turn, so that a forced stop gets through.
   *
   * @throws VmError VM_STOP_TIMEOUT, VM_PAUSED
   */
  async powerDown({ timeoutMs, signal }: { timeoutMs: number; signal: AbortSignal }): Promise<void> {
    const process = await this.#turns.run(async () => {
      if (this.#record.state.kind === 'stopped') return null
      const { state, process } = this.#commandable()
      if (state.paused) {
        throw this.#error(
          'VM_PAUSED',
          'is paused and would not notice its power button: resume it, or use --force',
        )
      }
      await process.powerDown({ signal })
      return process
    }, signal)
    if (process === null) return
    const waited = new AbortController()
    const timeOut = sleep(timeoutMs, 'timed out', { signal: AbortSignal.any([signal, waited.signal]) })
    try {
      const outcome = await Promise.race([this.#ended, timeOut])
      if (outcome !== 'timed out') return
    } finally {
      waited.abort()
      await timeOut.catch(() => {})
    }
    throw this.#error(
      'VM_STOP_TIMEOUT',
      `has not switched itself off within ${timeoutMs / 1000} s: use --force`,
    )
  }

  /** Ends QEMU at once, as pulling the plug does. A VM that can't be reached is ended too. */
  forceStop(signal: AbortSignal): Promise<void> {
    return this.#turns.run(async () => {
      if (this.#record.state.kind === 'stopped') return
      requireNotMoving(this.#record)
      await this.#endProcess()
      await this.#saveStopped('stopped by its user')
    }, signal)
  }

  /**
   * Whom it serves, and whether it may be moved to them. In its Offer that travels with it, so not while it moves.
   *
   * @throws VmError VM_BUSY, VM_IN_DOUBT
   */
  wish(wishes: VmWishes, signal: AbortSignal): Promise<void> {
    return this.#turns.run(async () => {
      requireNotMoving(this.#record)
      await this.#saveRecord({ ...this.#record, spec: { ...this.#record.spec, ...wishes } })
      this.#emit({ kind: 'vm-changed' })
    }, signal)
  }

  /**
   * Forgets a stopped VM and all it left.
   *
   * @throws VmError VM_RUNNING, VM_BUSY, VM_IN_DOUBT
   */
  remove(): Promise<void> {
    return this.#turns.run(async () => {
      if (this.#retired) return
      if (this.#components.isArriving()) throw this.#error('VM_BUSY', 'is on its way back: wait for it')
      if (requireNotMoving(this.#record).kind === 'running') {
        throw this.#error('VM_RUNNING', `is running: \`vm stop ${this.#record.spec.name}\` first`)
      }
      await this.#forget()
      this.#emit({ kind: 'vm-removed' })
    })
  }

  /** @throws VmError VM_STOPPED, VM_BUSY, VM_IN_DOUBT, VM_UNREACHABLE, VM_DISK_NOT_MOVABLE */
  requireMovable(): StateOf<'running'> {
    const { state } = this.#commandable()
    this.#requireNotLent()
    if (!this.#record.spec.hasDisk) return state
    throw this.#error(
      'VM_DISK_NOT_MOVABLE',
      'has a disk of its own on this node, which can not be moved yet: run it without a disk, or leave it here',
    )
  }

  /** @throws as `requireMovable` */
  depart(migrationId: MigrationId): Promise<void> {
    return this.#turns.run(async () => {
      const state = this.requireMovable()
      await this.#save({ kind: 'departing', process: state.process, paused: state.paused, migrationId })
      this.#emit({ kind: 'vm-departing', migrationId })
    })
  }

  /**
   * Lends the VM to whoever makes a template of it, until disposed. Meanwhile no
   * move may begin, and no second template be made: two would forget each other's
   * dirty pages. Its user may command and stop it as ever.
   *
   * @throws VmError VM_STOPPED, VM_BUSY, VM_IN_DOUBT, VM_UNREACHABLE
   */
  lendToSeal(): Promise<SealLoan> {
    return this.#turns.run(async () => {
      const { process } = this.#commandable()
      this.#requireNotLent()
      this.#isLentToSeal = true
      return {
        record: this.#record,
        process,
        holdStill: (look) => this.#turns.run(() => this.#holdStill(look)),
        requireRunning: () => this.#turns.run(async () => void this.#commandable()),
        [Symbol.dispose]: () => {
          this.#isLentToSeal = false
        },
      }
    })
  }

  /** Commit point of the hand-over at the source: once this is on disk a Grant may leave. */
  doubt(doubt: Doubt): Promise<void> {
    return this.#turns.run(async () => {
      const { process, paused } = requireMoving(this.#record, doubt.migrationId, ['departing'])
      await this.#save({ kind: 'in-doubt', process, paused, ...doubt })
    })
  }

  /**
   * The VM is this node's again, and its guest goes on, whether the disk takes
   * the record at once or not: what is there, `departing` or a doubt that the
   * destination denies, gives it back to this node after a crash too. A VM whose
   * QEMU has ended meanwhile stays stopped: it is this node's too.
   */
  stay(migrationId: MigrationId): Promise<void> {
    return this.#turns.run(async () => {
      const { state } = this.#record
      if (this.#retired || (state.kind === 'stopped' && state.doubt === null)) return
      if (this.#leaving !== null)
        throw this.#error('VM_NOT_DEPARTING', `was given up by move ${this.#leaving}`)
      if (state.kind === 'stopped') {
        this.#requireDoubtOf(migrationId)
        await this.#become({ ...state, doubt: null })
        this.#emit({ kind: 'vm-stayed', migrationId })
        return
      }
      const { process, paused } = requireMoving(this.#record, migrationId, ['departing', 'in-doubt'])
      const meant = { kind: 'running', process, paused } as const
      await this.#become(meant)
      this.#emit({ kind: 'vm-stayed', migrationId })
      if (!paused) await this.#letRun(meant)
    })
  }

  /**
   * The destination owns the VM. The record goes first: a QEMU without one is
   * ended by the next start, a record without QEMU would look like a loss. While
   * the disk refuses that, the guest stays paused and the VM in doubt, and it is
   * tried until it succeeds: the VM leaves then, whether this is called again or
   * not.
   *
   * @throws DiskFullError, or what else the disk refuses it with
   */
  leave(migrationId: MigrationId): Promise<void> {
    return this.#turns.run(async () => {
      // What came back has a run directory of its own: this one's is all that is left to remove.
      if (this.#retired) return rm(this.runDir, { recursive: true, force: true })
      if (this.#record.state.kind === 'stopped') this.#requireDoubtOf(migrationId)
      else requireMoving(this.#record, migrationId, ['departing', 'in-doubt'])
      this.#leaving = migrationId
      try {
        await this.#forget()
      } catch (error) {
        // Once the record is gone, the rest is the next start's to end.
        if (!this.#retired) this.#catchUpLater(error)
        throw error
      }
      this.#emit({ kind: 'vm-left', migrationId })
    })
  }

  /**
   * A VM that arrived takes its first step here. Does nothing while it is paused by its user.
   *
   * @throws VmError VM_UNREACHABLE, VM_STOPPED when QEMU has ended
   */
  goOn(): Promise<void> {
    return this.#turns.run(async () => {
      const state = requireRunning(this.#record)
      if (!state.paused) await this.#requireGoingOn(state)
    })
  }

  async #holdStill<T>(
    look: (process: QemuProcess) => Promise<T>,
  ): Promise<{ result: T; blackoutMs: number }> {
    const { state, process } = this.#commandable()
    if (state.paused) return { result: await look(process), blackoutMs: 0 }
    const status = await process.status()
    if (status !== 'running') throw notDerivable(this.#record, [`the guest is ${status}`])
    const startedMs = performance.now()
    let result: T
    try {
      await process.pause()
      result = await look(process)
    } finally {
      await this.#letRun(state)
    }
    return { result, blackoutMs: performance.now() - startedMs }
  }

  async #requireGoingOn(state: StateOf<'running'>, signal?: AbortSignal): Promise<void> {
    if (await this.#letRun(state, signal)) return
    throw this.#error('VM_STOPPED', 'has lost its QEMU before it went on')
  }

  /**
   * One `cont`; where that fails, again as after a restart: over a new connection.
   *
   * @returns false when QEMU has ended
   * @throws VmError VM_UNREACHABLE
   */
  async #letRun({ process: identity }: StateOf<'running'>, signal?: AbortSignal): Promise<boolean> {
    const before = this.#process
    try {
      if (before !== null) {
        await before.resume({ signal })
        return true
      }
    } catch {
      signal?.throwIfAborted()
      // QEMU serves one connection at a time. Its end is still watched for.
      await before?.qmp.close()
    }
    const found = await findProcess(identity, this.runDir)
    if (found.kind === 'gone') {
      // The end of a QEMU that is watched is written down by #onExit, which knows why.
      if (before === null) await this.#saveStopped(found.reason)
      return false
    }
    try {
      if (found.kind === 'unreachable') throw new Error(found.reason)
      this.attach(found.process)
      await before?.disconnect()
      await resumeGuest(found.process)
      return true
    } catch (cause) {
      const reason = (cause as Error).message
      this.#emit({ kind: 'vm-unreachable', reason })
      throw this.#error('VM_UNREACHABLE', `can not be resumed: ${reason}`, { cause })
    }
  }

  /** In its turn, and only while this object speaks for the VM: the record may be another's else. */
  async #forget(): Promise<void> {
    const { records, directories, forget } = this.#components
    const { id } = this.#record.spec
    await directories.mark(id)
    await records.delete(id)
    this.#retired = true
    try {
      await this.#endProcess()
    } finally {
      await Promise.all([directories.remove(id), rm(this.runDir, { recursive: true, force: true })])
      forget(this)
    }
  }

  /** Ends QEMU, if there is one, in a way that #onExit doesn't take for its own doing. */
  async #endProcess(): Promise<void> {
    const process = this.#process
    this.#process = null
    const { state } = this.#record
    if (process !== null) await process.quit()
    else if (state.kind !== 'stopped') await endProcess(state.process, this.runDir)
  }

  /** Writes what is meant to be, then does it; what could not be done isn't meant any more. */
  async #mean(state: StateOf<'running'>, act: () => Promise<void>): Promise<void> {
    const before = this.#record.state
    await this.#save(state)
    try {
      await act()
    } catch (error) {
      await this.#become(before)
      throw error
    }
  }

  /** On disk, then in memory: what can be seen is committed. */
  #save(state: VmState): Promise<void> {
    return this.#saveRecord({ ...this.#record, state })
  }

  async #saveRecord(record: VmRecord): Promise<void> {
    if (this.#retired) throw this.#error('VM_NOT_FOUND', 'is not on this node any more')
    await this.#components.records.put(record)
    this.#record = record
    this.#isBehind = false
  }

  /** For what is so whether the disk takes it or not: on disk now or later. */
  async #become(state: VmState): Promise<void> {
    try {
      await this.#save(state)
    } catch (error) {
      if (this.#retired) throw error
      this.#record = { ...this.#record, state }
      this.#isBehind = true
      this.#catchUpLater(error)
    }
  }

  #catchUpLater(error: unknown): void {
    const { code, message } = errorBody(error)
    this.#emit({ kind: 'vm-record-not-written', code, reason: message })
    if (this.#isCatchingUp) return
    this.#isCatchingUp = true
    void keepTrying(() => this.#turns.run(() => this.#catchUp()), this.#components.stopping).then(() => {
      this.#isCatchingUp = false
    })
  }

  async #catchUp(): Promise<void> {
    if (this.#retired) return
    const migrationId = this.#leaving
    if (migrationId !== null) {
      await this.#forget()
      this.#emit({ kind: 'vm-left', migrationId })
    } else if (this.#isBehind) {
      await this.#save(this.#record.state)
      this.#emit({ kind: 'vm-record-written' })
    }
  }

  async #saveStopped(reason: string): Promise<void> {
    const state = { kind: 'stopped', reason, doubt: doubtOf(this.#record.state) } as const
    await this.#become(state)
    this.#emit({ kind: 'vm-stopped', reason: stopReason(state) })
  }

  async #onExit(process: QemuProcess): Promise<void> {
    if (this.#process !== process || this.#retired) return
    this.#process = null
    await this.#saveStopped(await exitReason(process))
  }

  #commandable(): { state: StateOf<'running'>; process: QemuProcess } {
    const state = requireRunning(this.#record)
    if (this.#process !== null) return { state, process: this.#process }
    throw this.#error('VM_UNREACHABLE', 'has a QEMU that does not answer: `drover vm stop --force` ends it')
  }

  #requireNotLent(): void {
    if (!this.#isLentToSeal) return
    throw this.#error('VM_BUSY', 'is being sealed as a template: wait for that')
  }

  #requireDoubtOf(migrationId: MigrationId): void {
    if (doubtOf(this.#record.state)?.migrationId === migrationId) return
    throw this.#error(
      'VM_NOT_DEPARTING',
      `is '${this.#record.state.kind}', not in doubt by move ${migrationId}`,
    )
  }

  #error(code: keyof typeof VM_ERRORS, what: string, init: { cause?: unknown } = {}): VmError {
    return vmError(this.#record, code, what, init)
  }

  #emit(event: Without<OwnVmEvent, 'id' | 'name'>): void {
    const { id, name } = this.#record.spec
    this.#components.onEvent({ ...event, id, name } as OwnVmEvent)
  }
}
