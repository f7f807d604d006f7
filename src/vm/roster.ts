import { statSync } from 'node:fs'
import type { TemplateId } from '../domain/template.ts'
import type { NicSpec, VmId, VmRecord, VmSpec } from '../domain/vm.ts'
import type { TemplateStore } from '../template/index.ts'
import { admit, type MemoryBudget, memoryBudget, ownBytes } from './admission.ts'
import { VmError } from './errors.ts'
import { hostAvailableBytes, ownMemoryBytes } from './node-memory.ts'
import type { Vm } from './vm.ts'

/** What a run or an arrival in progress holds, until its VM is in the roster or given up. */
export interface Claim {
  readonly id: VmId
  readonly name: string
  readonly templateId: TemplateId
  readonly nics: readonly NicSpec[]
  /** Pages of its own that the VM brings. */
  readonly privatePages: number
  /** RAM of its template that is still to come to this node. */
  readonly missingTemplateBytes: number
}

/**
 * Who is on this node, or about to be: VMs and claims. Checking and claiming
 * happen without waiting in between, so two commands can't both find the same
 * name, port or memory free.
 */
export class Roster {
  readonly #templates: TemplateStore
  readonly #memoryLimitBytes: number | null
  readonly #vms = new Map<VmId, Vm>()
  readonly #claims = new Set<Claim>()

  constructor(components: { templates: TemplateStore }, init: { memoryLimitBytes: number | null }) {
    this.#templates = components.templates
    this.#memoryLimitBytes = init.memoryLimitBytes
  }

  vms(): Vm[] {
    return [...this.#vms.values()]
  }

  /** Oldest first. */
  records(): VmRecord[] {
    return this.vms()
      .map((vm) => vm.record)
      .sort((a, b) => a.createdAtMs - b.createdAtMs)
  }

  /** A VM that came back takes the place of what was left of it. */
  add(vm: Vm): void {
    const { id } = vm.record.spec
    this.#vms.get(id)?.retire()
    this.#vms.set(id, vm)
  }

  remove(vm: Vm): void {
    const { id } = vm.record.spec
    if (this.#vms.get(id) === vm) this.#vms.delete(id)
  }

  byId(id: VmId): Vm | undefined {
    return this.#vms.get(id)
  }

  /** Whether the VM is just starting or arriving. */
  isClaimed(id: VmId): boolean {
    return [...this.#claims].some((claim) => claim.id === id)
  }

  /**
   * @param name - name or id
   * @throws VmError VM_NOT_FOUND
   */
  find(name: string): Vm {
    const vm = this.vms().find(({ record: { spec } }) => spec.name === name) ?? this.#vms.get(name)
    if (vm !== undefined) return vm
    throw new VmError('VM_NOT_FOUND', `no VM '${name}' on this node: see \`vm ls\``, { details: { name } })
  }

  /** @throws VmError NAME_TAKEN when another VM has the name, or it is that VM's own claim */
  requireNameFree({ id, name }: { id: VmId; name: string }): void {
    const holder = this.records().find(({ spec }) => spec.name === name && spec.id !== id)
    const claim = [...this.#claims].find((claimed) => claimed.name === name || claimed.id === id)
    if (holder === undefined && claim === undefined) return
    const who = holder === undefined ? 'a VM that is just starting or arriving' : 'another VM on this node'
    throw new VmError('NAME_TAKEN', `the name '${name}' belongs to ${who}`, { details: { name } })
  }

  /** NICs of everybody here, but not of the VM `except`. */
  nics({ except }: { except?: VmId } = {}): NicSpec[] {
    return this.#users().flatMap(({ id, nics }) => (id === except ? [] : nics))
  }

  /** Names of all that need a template, stopped VMs too. */
  namesUsing(templateId: TemplateId): string[] {
    return this.#users()
      .filter((user) => user.templateId === templateId)
      .map((user) => user.name)
  }

  memory(): MemoryBudget {
    const pids = this.#runningRecords().map(({ pid }) => pid)
    return memoryBudget({
      limitBytes: this.#memoryLimitBytes,
      hostAvailableBytes: hostAvailableBytes(),
      vmBytes: pids.map(ownMemoryBytes),
      templateBytes: [...this.#templateBytes().values()],
      reservedBytes: [...this.#claims].map((claim) => ownBytes(claim.privatePages)),
    })
  }

  /**
   * Takes a place for a VM, if there is memory for it.
   *
   * @returns gives the place up when disposed; harmless when done again
   * @throws VmError NOT_ENOUGH_MEMORY
   */
  claim(claim: Claim): Disposable {
    const isTemplateCounted = this.#templateBytes().has(claim.templateId)
    const templateBytes = isTemplateCounted ? 0 : this.#bytesOfTemplate(claim)
    admit(this.memory(), ownBytes(claim.privatePages) + templateBytes)
    this.#claims.add(claim)
    return { [Symbol.dispose]: () => void this.#claims.delete(claim) }
  }

  #users(): (VmSpec | Claim)[] {
    return [...this.records().map(({ spec }) => spec), ...this.#claims]
  }

  /** RAM of the templates that somebody here runs on, or will. */
  #templateBytes(): Map<TemplateId, number> {
    const users = [
      ...this.#runningRecords().map(({ record }) => ({ ...record.spec, missingTemplateBytes: 0 })),
      ...this.#claims,
    ]
    return new Map(users.map((user) => [user.templateId, this.#bytesOfTemplate(user)]))
  }

  /** Sparse files: what is allocated counts, in blocks of 512 bytes (stat(2)). */
  #bytesOfTemplate({
    templateId,
    missingTemplateBytes,
  }: {
    templateId: TemplateId
    missingTemplateBytes: number
  }): number {
    if (!this.#templates.has(templateId)) return missingTemplateBytes
    return statSync(this.#templates.files(templateId).ram).blocks * 512
  }

  #runningRecords(): { record: VmRecord; pid: number }[] {
    return this.records().flatMap((record) =>
      record.state.kind === 'stopped' ? [] : [{ record, pid: record.state.process.pid }],
    )
  }
}
