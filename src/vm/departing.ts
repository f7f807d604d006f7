import type { MachineSpec } from '../domain/template.ts'
import type { Doubt, MigrationId, VmRecord } from '../domain/vm.ts'
import type { QemuProcess } from '../qemu/index.ts'
import type { TemplateStore } from '../template/index.ts'
import { VmError } from './errors.ts'
import type { Vm } from './vm.ts'

/** A VM of this node that may be moved away, as a move sees it. */
export class MovableVm {
  readonly #vm: Vm
  readonly #templates: TemplateStore

  constructor(components: { vm: Vm; templates: TemplateStore }) {
    this.#vm = components.vm
    this.#templates = components.templates
  }

  get record(): VmRecord {
    return this.#vm.record
  }

  /** @throws VmError VM_UNREACHABLE when QEMU has ended, or was found hanging after a restart */
  get process(): QemuProcess {
    if (this.#vm.process !== null) return this.#vm.process
    const { id, name } = this.record.spec
    throw new VmError('VM_UNREACHABLE', `VM '${name}' has no QEMU that answers`, { details: { id, name } })
  }

  /** The file that the guest's memory is a private mapping of. */
  get ramPath(): string {
    return this.#templates.files(this.record.spec.templateId).ram
  }

  get machine(): MachineSpec {
    return this.#templates.get(this.record.spec.templateId).manifest.machine
  }

  /** Paused by its user: it stays paused wherever it ends up. */
  get paused(): boolean {
    const { state } = this.record
    return state.kind !== 'stopped' && state.paused
  }
}

/** A VM of this node while it is being moved away, and what may become of it. */
export class DepartingVm extends MovableVm {
  readonly #vm: Vm
  readonly #migrationId: MigrationId

  constructor(components: { vm: Vm; templates: TemplateStore }, init: { migrationId: MigrationId }) {
    super(components)
    this.#vm = components.vm
    this.#migrationId = init.migrationId
  }

  /**
   * On disk: the Grant that `doubt` names may have left. Called before it may.
   *
   * @throws VmError VM_NOT_DEPARTING when QEMU has ended meanwhile
   */
  doubt(doubt: Omit<Doubt, 'migrationId'>): Promise<void> {
    return this.#vm.doubt({ ...doubt, migrationId: this.#migrationId })
  }

  /**
   * On disk: the VM is this node's; then the guest goes on, unless its user had
   * paused it. From departing and in doubt. Where QEMU has ended meanwhile the
   * VM stays stopped, without a doubt. A guest that does not go on at once is
   * connected to again, and told of as `vm-unreachable` when that fails too.
   *
   * @throws VmError VM_UNREACHABLE, VM_NOT_DEPARTING
   */
  stay(): Promise<void> {
    return this.#vm.stay(this.#migrationId)
  }

  /**
   * The destination owns the VM: its record, QEMU and directories here go. One
   * that has come back meanwhile is left alone.
   *
   * @throws VmError VM_NOT_DEPARTING
   */
  leave(): Promise<void> {
    return this.#vm.leave(this.#migrationId)
  }
}
