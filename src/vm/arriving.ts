import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { steadyNowMs } from '../domain/clock.ts'
import type { CoolDown } from '../domain/cool-down.ts'
import type { MigrationId, VmRecord, VmSpec } from '../domain/vm.ts'
import type { QemuBinary, QemuProcess } from '../qemu/index.ts'
import type { TemplateStore } from '../template/index.ts'
import { VmError } from './errors.ts'
import { type IncomingVm, startIncoming } from './incoming.ts'
import { keepTrying } from './keep-trying.ts'
import type { PreparedQemu } from './prepared-qemu.ts'
import type { DatabaseWrite } from './records.ts'
import type { HeldClaim } from './roster.ts'
import { requireRunnable } from './runnable.ts'
import type { Vm } from './vm.ts'

export interface ArrivingComponents {
  binary: QemuBinary
  templates: TemplateStore
  /** What is kept for it; given up by whoever made it, in `onSettled`. */
  claim: Pick<HeldClaim, 'startedAs' | 'requireRoom'>
  /** A QEMU on the VM's template that is ready for it, the arrival's own; its run directory is the arrival's. */
  prepared: PreparedQemu | null
  /**
   * One synced write of the record and of `also`, unless what is left of the VM here stands in its way.
   * `onWrite` is called when it begins to write.
   */
  commit: (record: VmRecord, also: readonly DatabaseWrite[], onWrite: () => void) => Promise<void>
  /** One synced write of what was there before, and of `also`. */
  restore: (also: readonly DatabaseWrite[]) => Promise<void>
  /** The VM is this node's: the list takes it over, with its QEMU. */
  onTaken: (record: VmRecord, process: QemuProcess) => Vm
  /** Nothing of the arrival is left here, or all of it is the VM's now. */
  onSettled: () => void
}

/**
 * A VM on its way to this node. Until `take` nothing of it is on disk: a crash
 * leaves a QEMU without a record, which the next start ends. Its run directory
 * is its own, so what an earlier stay of the VM left can be removed meanwhile.
 */
export class ArrivingVm {
  readonly spec: VmSpec
  readonly migrationId: MigrationId
  readonly #components: ArrivingComponents
  readonly #coolDown: CoolDown
  readonly #runDirName: string
  readonly #runDir: string
  readonly #discarded = new AbortController()
  #launching: Promise<IncomingVm> | null = null
  #process: QemuProcess | null = null
  #hasExited = false
  #discarding: Promise<void> | null = null
  #taken = false
  /** A write that says so was begun. */
  #mayBeTaken = false
  #vm: Vm | null = null

  constructor(
    components: ArrivingComponents,
    init: {
      spec: VmSpec
      migrationId: MigrationId
      coolDown: CoolDown
      runDirs: string
      runDirName: string
    },
  ) {
    this.#components = components
    this.spec = init.spec
    this.migrationId = init.migrationId
    this.#coolDown = init.coolDown
    this.#runDirName = init.runDirName
    this.#runDir = join(init.runDirs, init.runDirName)
  }

  /**
   * Starts QEMU on the template, or takes the one that is ready: paused, its stream open for pages. Once.
   *
   * @throws TemplateError TEMPLATE_NOT_FOUND, TEMPLATE_DAMAGED; VmError TEMPLATE_NOT_RUNNABLE, NO_FREE_SLOT; QemuError
   */
  launch({ signal }: { signal: AbortSignal }): Promise<IncomingVm> {
    if (this.#launching !== null) throw new Error('an arriving VM is launched once')
    this.#launching = this.#launch(AbortSignal.any([signal, this.#discarded.signal]))
    return this.#launching
  }

  /**
   * That this node still has room for the VM, with what its QEMU has really
   * taken and all that others take or were promised. Before `take`, as often as
   * wanted: after a round of pages, and at last before the source is told that
   * the VM can run here. Microseconds (HeldClaim).
   *
   * @throws VmError NOT_ENOUGH_MEMORY (details: neededBytes, availableBytes, missingBytes, limitBytes)
   */
  requireRoom(): void {
    this.#components.claim.requireRoom()
  }

  /**
   * The VM is this node's: one synced write of its record and of `also`, which
   * is the commit point of the hand-over here. The guest stays paused until
   * `resume`. A crash in between: the next start resumes it.
   *
   * @param epoch - the Grant's
   * @param paused - whether its user had paused the guest at the source
   * @throws VmError VM_STOPPED when QEMU has ended; VM_ALREADY_HERE when what is left of the VM here was
   *   decided to be this node's meanwhile: nothing was written then. Whatever the disk says: then it may have been
   */
  async take(epoch: number, paused: boolean, also: readonly DatabaseWrite[]): Promise<void> {
    const process = this.#process
    if (process === null || this.#hasExited || this.#discarding !== null) {
      throw new VmError('VM_STOPPED', `the QEMU that VM '${this.spec.name}' arrived in has ended`)
    }
    const state = { kind: 'running', process: process.identity, paused } as const
    const createdAtMs = Math.round(steadyNowMs())
    const record: VmRecord = {
      spec: this.spec,
      epoch,
      state,
      runDirName: this.#runDirName,
      createdAtMs,
      coolDown: { ...this.#coolDown, atMs: createdAtMs },
    }
    this.#taken = true
    try {
      await this.#components.commit(record, also, () => {
        this.#mayBeTaken = true
      })
    } catch (error) {
      this.#taken = false
      throw error
    }
    this.#vm = this.#components.onTaken(record, process)
    this.#components.onSettled()
  }

  /**
   * After a `take` that failed: takes back what may be on disk of it, again and
   * again until the disk takes that, and discards. Nobody may be told before
   * that nothing was taken; a QEMU that can't be ended doesn't make it less so,
   * and `discard` tells of it.
   *
   * @throws the signal's reason; the disk decides at the next start then
   */
  async untake(also: readonly DatabaseWrite[], signal: AbortSignal): Promise<void> {
    const restore = async (): Promise<void> => {
      await this.#components.restore(also)
      this.#mayBeTaken = false
    }
    if (this.#mayBeTaken) await restore().catch(() => keepTrying(restore, signal))
    if (this.#mayBeTaken) {
      // QEMU serves one connection at a time: the next start needs it.
      await this.#process?.disconnect()
      throw signal.reason
    }
    await this.discard().catch(() => {})
  }

  /**
   * After `take`: lets the guest go on, unless its user has paused it. One `cont`
   * in the good case, and once more over a new connection where that fails.
   *
   * @throws VmError VM_UNREACHABLE (told as an event too), VM_STOPPED when QEMU has ended
   */
  async resume(): Promise<void> {
    if (this.#vm === null) throw new Error('an arriving VM is resumed after it was taken')
    await this.#vm.goOn()
  }

  /**
   * Ends QEMU, removes what it left, frees the reservation. Does nothing after
   * `take`, nor while the disk may say that it was taken: the next start finds out.
   */
  discard(): Promise<void> {
    if (this.#taken || this.#mayBeTaken) return Promise.resolve()
    this.#discarding ??= this.#discard()
    return this.#discarding
  }

  async #launch(signal: AbortSignal): Promise<IncomingVm> {
    const { binary, templates, claim } = this.#components
    const { templateId, nics, generationId } = this.spec
    requireRunnable(binary, templates.get(templateId).manifest.machine, nics)
    templates.used(templateId).catch(() => {
      // The disk is full: what it forgets is which templates are worth their place.
    })
    const launch = { templateId, nics, generationId, runDir: this.#runDir }
    const incoming =
      (await this.#usePrepared(signal)) ?? (await startIncoming({ binary, templates }, launch, { signal }))
    const { process } = incoming
    this.#process = process
    claim.startedAs(process.pid)
    void process.exited.then(() => {
      this.#hasExited = true
    })
    return incoming
  }

  /** @returns null where there is none, or it is not what it should be: one is started then */
  async #usePrepared(signal: AbortSignal): Promise<IncomingVm | null> {
    const { prepared } = this.#components
    if (prepared === null) return null
    try {
      return await prepared.become(this.spec, { signal })
    } catch {
      await prepared.quit()
      signal.throwIfAborted()
      return null
    }
  }

  async #discard(): Promise<void> {
    this.#discarded.abort(new VmError('VM_STOPPED', `the arrival of VM '${this.spec.name}' was given up`))
    try {
      await this.#launching?.catch(() => {})
      await this.#process?.quit()
      await this.#components.prepared?.quit()
      await rm(this.#runDir, { recursive: true, force: true })
    } finally {
      this.#components.onSettled()
    }
  }
}
