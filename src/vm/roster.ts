import type { TemplateId } from '../domain/template.ts'
import type { NicSpec, PeerIdText, VmId, VmRecord, VmSpec } from '../domain/vm.ts'
import type { TemplateStore } from '../template/index.ts'
import {
  admit,
  CLONE_HEADROOM_BYTES,
  type MemoryBudget,
  type MemoryUse,
  memoryBudget,
  ownBytes,
  requireRoom,
} from './admission.ts'
import { VmError } from './errors.ts'
import { hostAvailableBytes, ownMemoryBytes } from './node-memory.ts'
import type { Vm } from './vm.ts'

/** Memory for one VM, and for its template where that is still to come. */
export interface Place {
  readonly id: VmId
  readonly templateId: TemplateId
  /** Pages of its own that the VM brings. */
  readonly privatePages: number
  /** RAM of its template that is still to come to this node. */
  readonly missingTemplateBytes: number
}

/** What a run or an arrival in progress holds, until its VM is in the roster or given up. */
export interface Claim extends Place {
  readonly name: string
  readonly nics: readonly NicSpec[]
}

/** A claim that holds until it is disposed; harmless when done again. */
export interface HeldClaim extends Disposable {
  /** The VM's QEMU runs: what it has taken counts as taken from here on, and the rest of the claim as reserved. */
  startedAs(pid: number): void
  /**
   * That there is still room for it, with all that has grown since it was admitted. 20 µs, and 15 µs for each QEMU
   * of this node.
   *
   * @throws VmError NOT_ENOUGH_MEMORY
   */
  requireRoom(): void
}

/** Kept for a VM of a herd until its source offers it. */
export interface HerdPlace extends Place {
  readonly source: PeerIdText
}

/** A QEMU that no VM is in, kept ready for one: its memory is anybody's who needs it. */
export interface Spare {
  readonly templateId: TemplateId
  readonly pid: number
  /** Ends it, at once and in the background; it is released meanwhile, then removed. */
  giveUp(): void
}

/**
 * Who is on this node, or about to be: VMs, claims, places of herds, and spare QEMUs. Checking and claiming
 * happen without waiting in between, so two commands can't both find the same
 * name, port or memory free.
 */
export class Roster {
  readonly #templates: TemplateStore
  readonly #memoryLimitBytes: number | null
  readonly #vms = new Map<VmId, Vm>()
  /** With the pid of the QEMU, where one runs. */
  readonly #claims = new Map<Claim, number | null>()
  readonly #places = new Set<HerdPlace>()
  /** Released: given up, and not gone yet. */
  readonly #spares = new Map<Spare, { released: boolean }>()

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
    return [...this.#claims.keys()].some((claim) => claim.id === id)
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

  /**
   * VMs are found by name or id: what is a name of one is no id of another, and a peer chooses both.
   *
   * @throws VmError NAME_TAKEN when another VM has the name, or it is that VM's own claim
   */
  requireNameFree({ id, name }: { id: VmId; name: string }): void {
    const clashes = (other: { id: VmId; name: string }) =>
      other.name === name || other.id === name || other.name === id
    const holder = this.records().find(({ spec }) => spec.id !== id && clashes(spec))
    const claim = [...this.#claims.keys()].find((claimed) => claimed.id === id || clashes(claimed))
    if (holder === undefined && claim === undefined) return
    const who = holder === undefined ? 'a VM that is just starting or arriving' : 'another VM on this node'
    throw new VmError('NAME_TAKEN', `the name '${name}' belongs to ${who}`, { details: { name } })
  }

  /** NICs of everybody here, but not of the VM `except`. */
  nics({ except }: { except?: VmId } = {}): NicSpec[] {
    return this.#users().flatMap(({ id, nics }) => (id === except ? [] : nics))
  }

  /** Names of all that need a template, stopped VMs too; ids of those in a herd, which have not said their names. */
  namesUsing(templateId: TemplateId): string[] {
    const ofHerds = [...this.#places].map((place) => ({ ...place, name: place.id }))
    return [...this.#users(), ...ofHerds]
      .filter((user) => user.templateId === templateId)
      .map((user) => user.name)
  }

  memory(): MemoryBudget {
    return memoryBudget(this.#use())
  }

  /**
   * Takes a place for a VM, if there is memory for it.
   *
   * A VM of a herd takes over the place kept for it, without a gap. It may have
   * written since: up to the headroom that its place holds for that, it takes
   * nothing that was not admitted. Beyond, only the rest is asked for.
   *
   * @param options.source - the peer that offers the VM; null for a run
   * @param options.pid - of the QEMU that was kept ready for it; null: it has none yet
   * @throws VmError NOT_ENOUGH_MEMORY, with no spare left; the place in the herd stays then
   */
  claim(
    claim: Claim,
    { source = null, pid = null }: { source?: PeerIdText | null; pid?: number | null } = {},
  ): HeldClaim {
    const kept = [...this.#places].find((place) => place.id === claim.id && place.source === source)
    const keptBytes = kept === undefined ? 0 : ownBytes(kept.privatePages) + CLONE_HEADROOM_BYTES
    // What its QEMU has taken of the machine is a part of what it needs.
    const use = () => this.#use({ takenBytes: pid === null ? 0 : ownMemoryBytes(pid) })
    this.#givingUpSpares(() => admit(memoryBudget(use()), this.#neededBytes([claim]) - keptBytes))
    if (kept !== undefined) this.#places.delete(kept)
    this.#claims.set(claim, pid)
    return {
      startedAs: (pid) => {
        if (this.#claims.has(claim)) this.#claims.set(claim, pid)
      },
      requireRoom: () => this.#requireRoom(claim),
      [Symbol.dispose]: () => void this.#claims.delete(claim),
    }
  }

  /**
   * Keeps places for a herd: for all of its VMs, or for none.
   *
   * @returns frees those that no claim took over
   * @throws VmError NOT_ENOUGH_MEMORY, for all together
   */
  keep(places: readonly HerdPlace[]): Disposable {
    this.#givingUpSpares(() => admit(this.memory(), this.#neededBytes(places)))
    for (const place of places) this.#places.add(place)
    return {
      [Symbol.dispose]: () => {
        for (const place of places) this.#places.delete(place)
      },
    }
  }

  /** Whether any VM is starting, arriving, or to come with a herd. */
  get isExpecting(): boolean {
    return this.#claims.size + this.#places.size > 0
  }

  /** Whether any VM is starting or arriving. */
  get isClaiming(): boolean {
    return this.#claims.size > 0
  }

  /** Counts a spare's memory, until it is removed. */
  addSpare(spare: Spare): void {
    this.#spares.set(spare, { released: false })
  }

  /** Given up: its memory counts as free although the machine still has to get it back. */
  releaseSpare(spare: Spare): void {
    if (this.#spares.has(spare)) this.#spares.set(spare, { released: true })
  }

  removeSpare(spare: Spare): void {
    this.#spares.delete(spare)
  }

  /** Whether a clone of the template would find room now: a QEMU for it is worth its memory then. */
  hasRoomForSpare(templateId: TemplateId): boolean {
    const place = { id: '', templateId, privatePages: 0, missingTemplateBytes: 0 }
    return this.#neededBytes([place]) <= this.memory().availableBytes
  }

  /** Does what may find too little memory, again after each spare that is given up for it. */
  #givingUpSpares(attempt: () => void): void {
    for (;;) {
      const [spare] = [...this.#spares].flatMap(([each, { released }]) => (released ? [] : [each]))
      try {
        attempt()
        return
      } catch (error) {
        if (spare === undefined) throw error
        spare.giveUp()
      }
    }
  }

  /** What so many more take: a template counts once, and not at all where somebody has it already. */
  #neededBytes(more: readonly Place[]): number {
    const templateBytes = (places: readonly Place[]) => sum(this.#templateBytes(places).values())
    return sum(more.map((place) => ownBytes(place.privatePages))) + templateBytes(more) - templateBytes([])
  }

  #requireRoom(claim: Claim): void {
    const pid = this.#claims.get(claim)
    if (pid === undefined) throw new Error('a claim that was given up has no room')
    const takenBytes = pid === null ? 0 : ownMemoryBytes(pid)
    const promisedBytes = ownBytes(claim.privatePages)
    this.#givingUpSpares(() => requireRoom(this.#use({ except: claim }), { takenBytes, promisedBytes }))
  }

  /**
   * @param options.except - left out, with its QEMU; its template counts all the same
   * @param options.takenBytes - that the machine has given already to whom it is asked for
   */
  #use({ except, takenBytes = 0 }: { except?: Claim; takenBytes?: number } = {}): MemoryUse {
    const claims = [...this.#claims].filter(([claim]) => claim !== except)
    const started = claims.flatMap(([claim, pid]) =>
      pid === null ? [] : [{ claim, bytes: ownMemoryBytes(pid) }],
    )
    const waiting = claims.flatMap(([claim, pid]) => (pid === null ? [claim] : []))
    const spares = [...this.#spares].map(([{ pid }, { released }]) => ({
      bytes: ownMemoryBytes(pid),
      released,
    }))
    const releasedBytes = sum(spares.map(({ bytes, released }) => (released ? bytes : 0)))
    return {
      limitBytes: this.#memoryLimitBytes,
      hostAvailableBytes: hostAvailableBytes() + releasedBytes + takenBytes,
      vmBytes: [
        ...spares.flatMap(({ bytes, released }) => (released ? [] : [bytes])),
        ...this.#runningRecords().map(({ pid }) => ownMemoryBytes(pid)),
        ...started.map(({ bytes }) => bytes),
      ],
      templateBytes: [...this.#templateBytes().values()],
      reservedBytes: [
        ...started.map(({ claim, bytes }) => Math.max(0, ownBytes(claim.privatePages) - bytes)),
        ...[...waiting, ...this.#places].map(({ privatePages }) => ownBytes(privatePages)),
      ],
    }
  }

  #users(): (VmSpec | Claim)[] {
    return [...this.records().map(({ spec }) => spec), ...this.#claims.keys()]
  }

  /**
   * RAM of the templates that somebody here runs on, or will. Of peers that tell
   * different sizes of one that is still to come, the largest counts.
   */
  #templateBytes(more: readonly Place[] = []): Map<TemplateId, number> {
    const running = this.#runningRecords().map(({ record: { spec } }) => ({
      ...spec,
      missingTemplateBytes: 0,
    }))
    const bytes = new Map<TemplateId, number>()
    for (const user of [...running, ...this.#claims.keys(), ...this.#places, ...more]) {
      bytes.set(user.templateId, Math.max(bytes.get(user.templateId) ?? 0, this.#bytesOfTemplate(user)))
    }
    return bytes
  }

  #bytesOfTemplate({
    templateId,
    missingTemplateBytes,
  }: {
    templateId: TemplateId
    missingTemplateBytes: number
  }): number {
    return this.#templates.has(templateId) ? this.#templates.ramBytes(templateId) : missingTemplateBytes
  }

  #runningRecords(): { record: VmRecord; pid: number }[] {
    return this.records().flatMap((record) =>
      record.state.kind === 'stopped' ? [] : [{ record, pid: record.state.process.pid }],
    )
  }
}

function sum(numbers: Iterable<number>): number {
  let total = 0
  for (const number of numbers) total += number
  return total
}
