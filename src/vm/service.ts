import { mkdir } from 'node:fs/promises'
import { PAGE_BYTES } from '../domain/page.ts'
import type { TemplateId } from '../domain/template.ts'
import { doubtOf, type MigrationId, type VmId, type VmRecord, type VmWishes } from '../domain/vm.ts'
import { mostPrivatePages } from '../memory/index.ts'
import { type QemuBinary, QemuError } from '../qemu/index.ts'
import type { MemoryBudget } from './admission.ts'
import type { ArrivingVm } from './arriving.ts'
import { DepartingVm, MovableVm } from './departing.ts'
import { VmError } from './errors.ts'
import { Node, type NodeComponents, type NodeInit } from './node.ts'
import { ownMemoryBytes } from './node-memory.ts'
import { endOrphans, removeStaleRunDirs } from './orphans.ts'
import { PreparedQemus } from './prepared-qemus.ts'
import { type ReserveRequest, reserveVm } from './reserve.ts'
import type { HerdPlace } from './roster.ts'
import { type RunRequest, runVm } from './run.ts'
import { type SealOptions, type SealResult, sealVm } from './seal.ts'
import { type VmView, viewVm } from './view.ts'
import type { Vm } from './vm.ts'

/** A guest with an init system ends its services first. */
const POWER_DOWN_TIMEOUT_MS = 30_000
const LOOK_TIMEOUT_MS = 2_000

/** What a move has to send, and what it has to send again. */
export interface GuestLook {
  /** What the guest has for itself, before encodings. Where it may not be looked into, the most that it can be. */
  privateBytes: number
  /** Pages that it writes, each counted once in a second; 0 before the first sample. */
  dirtyBytesPerSecond: number
}

export interface VmServiceComponents extends NodeComponents {
  /** Null on a node without a usable QEMU: its VMs can be seen, stopped and removed; none can start or arrive. */
  binary: QemuBinary | null
  /** Whether the node gives its VMs away: none is started here, and none arrives. Default: never. */
  isDraining?: () => boolean
}

export interface VmServiceInit extends NodeInit {
  powerDownTimeoutMs?: number
  /** QEMUs kept ready for VMs that may arrive; default: none. */
  preparedQemus?: number
}

/**
 * The VMs of this node: starts them, finds them again after a restart, stops
 * them, lends them to moves and takes in those that arrive. QEMUs outlive the
 * agent: what ties them to it are records and run directories.
 */
export class VmService {
  readonly #node: Node
  readonly #binary: QemuBinary | null
  readonly #isDraining: () => boolean
  readonly #powerDownTimeoutMs: number
  /** Runs and seals in progress. */
  readonly #tasks = new Set<Promise<unknown>>()
  readonly #arrivals = new Set<ArrivingVm>()
  readonly #prepared: PreparedQemus | null
  readonly #stopping = new AbortController()

  constructor(components: VmServiceComponents, init: VmServiceInit) {
    this.#node = new Node(components, init, this.#stopping.signal)
    this.#binary = components.binary
    this.#isDraining = components.isDraining ?? (() => false)
    this.#powerDownTimeoutMs = init.powerDownTimeoutMs ?? POWER_DOWN_TIMEOUT_MS
    const count = init.preparedQemus ?? 0
    const { binary } = components
    const isMoving = () => this.#isMoving()
    this.#prepared =
      binary === null || count === 0
        ? null
        : new PreparedQemus({ node: this.#node, binary, isMoving }, { count })
  }

  /**
   * Finds the node's VMs again and finishes what a crash left half done:
   *
   * - a record whose QEMU is gone becomes `stopped`, with a reason, and keeps its doubt;
   * - a guest goes on, or pauses, as its record says; a move under way is off;
   * - a VM in doubt stays as it is, paused;
   * - QEMUs in our run directory that no record knows are ended;
   * - what runs, arrivals and removals left on disk is removed.
   */
  async start(): Promise<void> {
    const { records, roster, runDirs, directories } = this.#node
    await mkdir(runDirs, { recursive: true, mode: 0o700 })
    for (const record of await records.load()) this.#node.add(record)
    await Promise.all(roster.vms().map((vm) => vm.recover()))
    const found = roster.records()
    const pids = found.flatMap(({ state }) => (state.kind === 'stopped' ? [] : [state.process.pid]))
    await endOrphans(runDirs, new Set(pids))
    await removeStaleRunDirs(runDirs, new Set(found.map(({ runDirName }) => runDirName)))
    await directories.recover(new Set(found.map(({ spec }) => spec.id)))
    this.#prepared?.start()
  }

  /** Ends runs, seals and arrivals in progress and the QEMUs that no VM is in, and lets go of the VMs, which run on. */
  async stop(): Promise<void> {
    this.#stopping.abort(new VmError('VM_BUSY', 'the agent is stopping'))
    const discarding = [...this.#arrivals].map((arrival) => arrival.discard())
    await Promise.allSettled([...this.#tasks, ...discarding, this.#prepared?.stop()])
    await Promise.all(this.#node.roster.vms().map((vm) => vm.release()))
  }

  /**
   * Starts a clone of a template. A failure or an abort leaves nothing behind.
   *
   * @throws VmError NODE_DRAINING, NAME_INVALID, NAME_TAKEN, NOT_ENOUGH_MEMORY, TEMPLATE_NOT_RUNNABLE, NO_FREE_SLOT,
   *   MAC_INVALID, MAC_TAKEN, PORT_TAKEN, OVERLAY_FAILED; TemplateError TEMPLATE_NOT_FOUND, TEMPLATE_AMBIGUOUS,
   *   TEMPLATE_DAMAGED; QemuError; DiskFullError
   */
  async run(request: RunRequest, { signal }: { signal: AbortSignal }): Promise<VmRecord> {
    const either = AbortSignal.any([signal, this.#stopping.signal])
    either.throwIfAborted()
    this.#requireTakesVms()
    return this.#tracked(runVm(this.#node, this.#requireBinary(), request, either))
  }

  /**
   * Makes a template of a VM, which runs on. A failure or an abort leaves
   * nothing of it. The VM may be paused and stopped meanwhile, not moved.
   *
   * @param name - of the VM
   * @param templateName - label of the new template
   * @throws VmError VM_NOT_FOUND, and as `sealVm`
   */
  async seal(name: string, templateName: string, options: SealOptions): Promise<SealResult> {
    const signal = AbortSignal.any([options.signal, this.#stopping.signal])
    signal.throwIfAborted()
    const vm = this.#node.roster.find(name)
    return this.#tracked(sealVm(this.#node, vm, templateName, { ...options, signal }))
  }

  /** Oldest first. */
  list(): VmRecord[] {
    return this.#node.roster.records()
  }

  /**
   * @param name - name or id, here and everywhere
   * @throws VmError VM_NOT_FOUND
   */
  get(name: string): VmRecord {
    return this.#node.roster.find(name).record
  }

  /** @throws VmError VM_NOT_FOUND */
  async show(name: string): Promise<VmView> {
    return viewVm(this.#node.roster.find(name), this.#node.templates)
  }

  /** @throws VmError VM_NOT_FOUND, VM_STOPPED, VM_BUSY, VM_IN_DOUBT, VM_UNREACHABLE; QemuError */
  async pause(name: string, { signal }: { signal: AbortSignal }): Promise<void> {
    await this.#node.roster.find(name).pause(signal)
  }

  /** @throws as `pause` */
  async resume(name: string, { signal }: { signal: AbortSignal }): Promise<void> {
    await this.#node.roster.find(name).resume(signal)
  }

  /** Changes whom a VM serves, and whether it may be moved to them. @throws VmError VM_NOT_FOUND, VM_BUSY, VM_IN_DOUBT */
  async wish(name: string, wishes: VmWishes, { signal }: { signal: AbortSignal }): Promise<void> {
    await this.#node.roster.find(name).wish(wishes, signal)
  }

  /** Presses the reset button. @throws as `pause` */
  async reset(name: string, { signal }: { signal: AbortSignal }): Promise<void> {
    await this.#node.roster.find(name).reset(signal)
  }

  /**
   * Switches a VM off: by its power button, waiting up to 30 s for the guest,
   * or by force. Its record stays. One that is off already is left as it is.
   *
   * @throws as `pause`; VmError VM_STOP_TIMEOUT, VM_PAUSED
   */
  async stopVm(name: string, { force, signal }: { force: boolean; signal: AbortSignal }): Promise<void> {
    const vm = this.#node.roster.find(name)
    if (force) await vm.forceStop(signal)
    else await vm.powerDown({ timeoutMs: this.#powerDownTimeoutMs, signal })
  }

  /** Removes a stopped VM. @throws VmError VM_NOT_FOUND, VM_RUNNING, VM_BUSY (it is arriving too), VM_IN_DOUBT */
  async remove(name: string): Promise<void> {
    await this.#node.roster.find(name).remove()
  }

  /** Names of the VMs that need a template; those just starting or arriving are among them. */
  namesUsing(templateId: TemplateId): string[] {
    return this.#node.roster.namesUsing(templateId)
  }

  /** QEMUs that are ready for VMs that arrive. */
  preparedQemus(): { templateId: TemplateId; pid: number }[] {
    return this.#prepared?.list() ?? []
  }

  /** Ends those, as memory is short. @returns whether there were any */
  giveUpPrepared(): boolean {
    return this.#prepared?.giveUp() ?? false
  }

  /** Memory of the node's VMs, measured now. */
  memory(): MemoryBudget {
    return this.#node.roster.memory()
  }

  /**
   * A VM that could be lent to a move at this moment; nothing changes.
   *
   * @throws as `depart`
   */
  movable(name: string): MovableVm {
    const vm = this.#node.roster.find(name)
    vm.requireMovable()
    return new MovableVm({ vm, templates: this.#node.templates })
  }

  /**
   * Lends a VM to a move: from here on its user can't command it.
   *
   * @throws as `pause`; VmError VM_DISK_NOT_MOVABLE
   */
  async depart(name: string, migrationId: MigrationId): Promise<DepartingVm> {
    const vm = this.#node.roster.find(name)
    await vm.depart(migrationId)
    return this.#departing(vm, migrationId)
  }

  /** Whether a VM is on this node, in whatever state. */
  has(id: VmRecord['spec']['id']): boolean {
    return this.#node.roster.byId(id) !== undefined
  }

  /** Whether a VM runs on this node. */
  isRunning(id: VmRecord['spec']['id']): boolean {
    return (this.#node.roster.byId(id)?.process ?? null) !== null
  }

  /** VMs whose move is in doubt, those among them too whose QEMU has ended. */
  inDoubt(): DepartingVm[] {
    return this.#node.roster.vms().flatMap((vm) => {
      const doubt = doubtOf(vm.record.state)
      return doubt === null ? [] : [this.#departing(vm, doubt.migrationId)]
    })
  }

  /**
   * Keeps memory for VMs that a peer will offer, for all of them or for none.
   * `reserve` takes each one's place over.
   *
   * @returns frees what `reserve` did not take
   * @throws VmError NODE_DRAINING, NOT_ENOUGH_MEMORY; DiskFullError
   */
  reserveHerd(places: readonly HerdPlace[]): Disposable {
    this.#stopping.signal.throwIfAborted()
    this.#requireTakesVms()
    this.#node.templates.requireFreeBytes(0)
    return this.#node.roster.keep(places)
  }

  /**
   * Keeps name, ports, memory and template for a VM that a peer offers. What is
   * left here of a VM that may have gone to that very peer doesn't stand in its way.
   *
   * @throws VmError NODE_DRAINING, VM_ALREADY_HERE, EPOCH_STALE, NAME_TAKEN, PORT_TAKEN, VM_DISK_NOT_MOVABLE,
   *   NOT_ENOUGH_MEMORY, TEMPLATE_NOT_RUNNABLE, NO_FREE_SLOT; QemuError QEMU_NOT_FOUND; DiskFullError
   */
  async reserve(request: ReserveRequest): Promise<ArrivingVm> {
    this.#stopping.signal.throwIfAborted()
    this.#requireTakesVms()
    const takePrepared = (id: TemplateId) => this.#prepared?.take(id) ?? null
    const arrival = reserveVm(
      this.#node,
      { binary: this.#requireBinary(), takePrepared },
      request,
      (settled) => {
        this.#arrivals.delete(settled)
      },
    )
    this.#arrivals.add(arrival)
    return arrival
  }

  /** Whether a VM is being started here, or is on its way here with its place reserved. */
  get isTakingIn(): boolean {
    return this.#node.roster.isClaiming
  }

  /**
   * Memory that a VM has for itself, in bytes: what the node gets back when it goes. 0 for one that is stopped.
   *
   * @throws VmError VM_NOT_FOUND
   */
  ownMemoryBytes(name: string): number {
    const { state } = this.#node.roster.find(name).record
    return state.kind === 'stopped' ? 0 : ownMemoryBytes(state.process.pid)
  }

  /**
   * What a move of a VM would have to send. Reads the page map: 512 MiB of guest take 3 ms. Not for one that is stopped.
   *
   * @throws VmError VM_NOT_FOUND, VM_STOPPED; TemplateError TEMPLATE_NOT_FOUND, TEMPLATE_DAMAGED; MemoryError
   * MEMORY_MAPPING_NOT_FOUND, MEMORY_PROCESS_GONE; QemuError
   */
  async lookAtGuest(id: VmId): Promise<GuestLook> {
    const { roster, templates } = this.#node
    const { record, process } = roster.find(id)
    const { state, spec } = record
    if (state.kind === 'stopped' || process === null)
      throw new VmError('VM_STOPPED', `'${spec.name}' doesn't run`)
    const { memoryBytes } = templates.get(spec.templateId).manifest.machine
    const ramPath = templates.files(spec.templateId).ram
    const guest = { pid: state.process.pid, ramPath, memoryBytes }
    const [privatePages, dirtyBytesPerSecond] = await Promise.all([
      mostPrivatePages(guest),
      process.sampleDirtyRate({ timeoutMs: LOOK_TIMEOUT_MS }),
    ])
    return { privateBytes: privatePages * PAGE_BYTES, dirtyBytesPerSecond: dirtyBytesPerSecond ?? 0 }
  }

  #requireTakesVms(): void {
    if (!this.#isDraining()) return
    throw new VmError(
      'NODE_DRAINING',
      'the node gives its VMs away and takes none: use another one, or `drover ready` there',
    )
  }

  #isMoving(): boolean {
    const { roster } = this.#node
    return roster.isExpecting || roster.records().some(({ state }) => state.kind === 'departing')
  }

  /** `stop` waits for it. */
  async #tracked<T>(task: Promise<T>): Promise<T> {
    this.#tasks.add(task)
    try {
      return await task
    } finally {
      this.#tasks.delete(task)
    }
  }

  #departing(vm: Vm, migrationId: MigrationId): DepartingVm {
    return new DepartingVm({ vm, templates: this.#node.templates }, { migrationId })
  }

  #requireBinary(): QemuBinary {
    if (this.#binary !== null) return this.#binary
    throw new QemuError('QEMU_NOT_FOUND', 'this node has no QEMU that works: see `drover doctor`')
  }
}
