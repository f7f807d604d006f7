import type { AbstractBatchOperation } from 'abstract-level'
import type { Level } from 'level'
import type { CoolDown } from '../domain/cool-down.ts'
import type { MachineSpec, TemplateId } from '../domain/template.ts'
import type { Doubt, MigrationId, PeerIdText, VmId, VmRecord, VmSpec } from '../domain/vm.ts'
import type { IncomingStream, QemuProcess } from '../qemu/index.ts'

/** The agent's one database; every room has sublevels of its own in it. */
export type Database = Level<string, unknown>
/** A write that goes to disk together with others, or not at all. */
export type JournalWrite = AbstractBatchOperation<Database, string, unknown>

/** This node's signature, and other nodes'. */
export interface Signatures {
  sign(statement: Uint8Array): Promise<Uint8Array>
  /** Doesn't throw: what is no signature, or no peer id that holds a key, isn't signed. */
  isSignedBy(peer: PeerIdText, statement: Uint8Array, signature: Uint8Array): Promise<boolean>
}

/** Peers that are known to have a template, the best first. Doesn't wait. */
export type FindProviders = (id: TemplateId) => readonly PeerIdText[]

/** What an arrival makes of the cool-down that a VM comes with, which is as its source says. */
export type CoolDownRule = (claimed: CoolDown, source: PeerIdText) => CoolDown

/** A VM of this node that may be moved away. */
export interface MovableVm {
  readonly record: VmRecord
  readonly process: QemuProcess
  readonly ramPath: string
  readonly machine: MachineSpec
  /** Paused by its user: it stays paused wherever it ends up. */
  readonly paused: boolean
}

/** A VM of this node while it is being moved away. */
export interface DepartingVm extends MovableVm {
  /** On disk: the Grant may have left. Where it fails, that may be on disk or not. */
  doubt(doubt: Omit<Doubt, 'migrationId'>): Promise<void>
  /** On disk: the VM is ours; then resumed. */
  stay(): Promise<void>
  /** QEMU quits, the record goes: the destination owns the VM. */
  leave(): Promise<void>
}

/** A QEMU on the template, its stream begun and the template's ROM blocks in it; `templateState`: checked bytes. */
export interface IncomingVm {
  process: QemuProcess
  stream: IncomingStream
  templateState: Buffer
}

/** A VM that is being moved to this node. */
export interface ArrivingVm {
  launch(options: { signal: AbortSignal }): Promise<IncomingVm>
  /**
   * Throws NOT_ENOUGH_MEMORY when this node has no room left for the VM: it grew while it was moved, or others did.
   * Before `take`; cheap enough for the blackout.
   */
  requireRoom(): void
  /** One synced write: the VM is ours, and `also`. Runs in the blackout. Where it fails, that may be on disk or not. */
  take(epoch: number, paused: boolean, also: readonly JournalWrite[]): Promise<void>
  /**
   * After a `take` that failed: resolves when what is on disk is what was before, and `also`; then discarded.
   * Rejects when the signal aborts: the next start finds out what the disk says.
   */
  untake(also: readonly JournalWrite[], signal: AbortSignal): Promise<void>
  /** Lets a taken guest run; tried again where QEMU refuses. */
  resume(): Promise<void>
  /** Ends QEMU, frees the reservation. Idempotent. */
  discard(): Promise<void>
}

/** What moving needs of the node's VMs. */
export interface MovableVms {
  /** Throws what `depart` would reject with at this moment; changes nothing. */
  movable(name: string): MovableVm
  depart(name: string, migrationId: MigrationId): Promise<DepartingVm>
  /** Whether a VM is on this node, in whatever state. */
  has(id: VmId): boolean
  /** Whether a VM runs on this node. */
  isRunning(id: VmId): boolean
  /** VMs in doubt, also those whose QEMU has ended. */
  inDoubt(): DepartingVm[]
  reserve(request: {
    spec: VmSpec
    /** The peer that offers it. */
    source: PeerIdText
    epoch: number
    machine: MachineSpec
    privatePages: number
    /** Bytes of the template's RAM that this node lacks. */
    templateBytes: number
    migrationId: MigrationId
    /** The VM's from its arrival on. */
    coolDown: CoolDown
  }): Promise<ArrivingVm>
  /** Memory for all of them or for none, until disposed; `reserve` takes over the place of the same VM and source. */
  reserveHerd(
    places: readonly {
      id: VmId
      source: PeerIdText
      templateId: TemplateId
      privatePages: number
      /** As `templateBytes` of `reserve`. */
      missingTemplateBytes: number
    }[],
  ): Disposable
}
