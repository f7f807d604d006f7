import {
  agedCoolDown,
  type CandidateNode,
  type CoolDown,
  coolDownAfterMove,
  moveCost,
  NO_COOL_DOWN,
  type VmSituation,
} from '../../src/placement/index.ts'
import { chooseForRemoval } from '../../src/template/gc.ts'
import { Ledger, type Totals } from './ledger.ts'
import {
  HEADROOM_BYTES,
  NODE_BYTES,
  ROUND_MS,
  ROUNDS_PER_SLICE,
  type Scene,
  type SceneVm,
  TEMPLATE_BYTES,
  UPLINK_BYTES_PER_SECOND,
} from './scene.ts'

/** A VM in the world. */
export interface PlacedVm {
  spec: SceneVm
  node: number
  sinceMs: number
  coolDown: CoolDown
  coolDownAtMs: number
  moving: { to: number; endsAtMs: number } | null
}

/** A median of probes is so far from the truth at most, up or down. */
const PROBE_ERROR_SHARE = 0.05

export interface Wish {
  vm: number
  to: number
}

/** Decides once in a round. */
export interface Policy {
  readonly name: string
  decide(world: World): Iterable<Wish>
}

/** What doesn't change of a VM. */
export function describedVm(spec: SceneVm): Omit<VmSituation, 'samples' | 'coolDown' | 'state' | 'ageMs'> {
  return {
    id: String(spec.index),
    name: `vm-${spec.index}`,
    templateId: String(spec.template),
    templateBytes: TEMPLATE_BYTES,
    mode: 'auto',
    privateBytes: spec.privateBytes,
    dirtyBytesPerSecond: spec.dirtyBytesPerSecond,
    headroomBytes: HEADROOM_BYTES,
  }
}

export function emptyNode(peerId: string): CandidateNode {
  return {
    peerId,
    name: `node-${peerId}`,
    takesVms: true,
    templates: new Set(),
    unrunnable: new Set(),
    availableBytes: NODE_BYTES,
    load: 0,
    bandwidthBytesPerSecond: UPLINK_BYTES_PER_SECOND,
    movesIn: 0,
  }
}

/**
 * What no policy gets round: a transfer takes its time on the source's uplink,
 * which carries one move at a time, as does the way into a node; a VM stays
 * where it is until it is over; a template comes with a VM and stays until
 * others need its room.
 */
export class World {
  readonly scene: Scene
  readonly vms: readonly PlacedVm[]
  /** By node: ids of the templates that it holds, the longest unused first. */
  readonly held: readonly Set<string>[]
  readonly movesOut: number[]
  readonly movesIn: number[]
  readonly #freeBytes: number[]
  readonly #ledger: Ledger
  readonly #random: () => number
  nowMs = 0
  round = 0
  /** Moves that began, by round. */
  readonly startedInRound: number[] = []

  /** @param random - for the errors of probes */
  constructor(scene: Scene, random: () => number) {
    this.scene = scene
    this.#random = random
    const { nodes, holders } = scene
    this.held = nodes.map(
      (_, node) =>
        new Set(
          holders
            .keys()
            .filter((template) => holders[template]!.includes(node))
            .map(String),
        ),
    )
    this.movesOut = nodes.map(() => 0)
    this.movesIn = nodes.map(() => 0)
    this.#freeBytes = nodes.map(() => NODE_BYTES)
    this.vms = scene.vms.map((spec) => ({
      spec,
      node: spec.startNode,
      sinceMs: 0,
      coolDown: NO_COOL_DOWN,
      coolDownAtMs: 0,
      moving: null,
    }))
    for (const { spec, node } of this.vms) this.#freeBytes[node]! -= spec.privateBytes + HEADROOM_BYTES
    this.#ledger = new Ledger()
  }

  get slice(): number {
    return Math.floor(this.round / ROUNDS_PER_SLICE)
  }

  /** Plays all rounds of the scene. */
  run(policy: Policy): Totals {
    const rounds = this.scene.slices.length * ROUNDS_PER_SLICE
    while (this.round < rounds) this.playRound(policy)
    return this.#ledger.totals(policy.name)
  }

  playRound(policy: Policy): void {
    let started = 0
    for (const wish of policy.decide(this)) if (this.#start(wish)) started++
    this.startedInRound.push(started)
    const endMs = this.nowMs + ROUND_MS
    for (const vm of this.vms) this.#runVm(vm, endMs)
    this.nowMs = endMs
    this.round++
  }

  /** What a round's median is off by, as a factor. */
  probeError(): number {
    return 1 + PROBE_ERROR_SHARE * (2 * this.#random() - 1)
  }

  /** What a node measures now to the users of a VM, in ms: one error for all of them, null where the data has a failed probe. */
  probesMs(vm: number, node: number): (number | null)[] {
    const { roundTrips, slices, nodes, vms } = this.scene
    const factor = this.probeError()
    return vms[vm]!.users.map((user) => {
      const rttMs = roundTrips.measuredMs(slices[this.slice]!, nodes[node]!, user)
      return Number.isNaN(rttMs) ? null : rttMs * factor
    })
  }

  coolDownOf(vm: PlacedVm): CoolDown {
    return agedCoolDown(vm.coolDown, this.nowMs - vm.coolDownAtMs)
  }

  /** A VM as its node would describe it; samples and cool-down are the policy's to add. */
  situation({ spec, sinceMs, moving }: PlacedVm): Omit<VmSituation, 'samples' | 'coolDown'> {
    const state = moving === null ? 'running' : 'departing'
    return { ...describedVm(spec), state, ageMs: this.nowMs - sinceMs }
  }

  candidate(node: number): CandidateNode {
    return {
      ...emptyNode(String(node)),
      templates: this.held[node]!,
      availableBytes: this.#freeBytes[node]!,
      movesIn: this.movesIn[node]!,
    }
  }

  #start({ vm: index, to }: Wish): boolean {
    const vm = this.vms[index]!
    const { node: from } = vm
    const cost = moveCost({ ...this.situation(vm), samples: [], coolDown: NO_COOL_DOWN }, this.candidate(to))
    const blocked = vm.moving !== null || from === to || this.movesOut[from]! > 0 || this.movesIn[to]! > 0
    if (blocked || cost.memoryBytes > this.#freeBytes[to]!) return false
    this.movesOut[from]!++
    this.movesIn[to]!++
    this.#freeBytes[to]! -= vm.spec.privateBytes + HEADROOM_BYTES
    const { remainingMs } = this.coolDownOf(vm)
    vm.moving = { to, endsAtMs: this.nowMs + cost.transferMs }
    const { privateBytes, dirtiedBytes, templateBytes, totalMsS: costMsS } = cost
    const sentBytes = privateBytes + dirtiedBytes + templateBytes
    const avoidedBytes = TEMPLATE_BYTES - templateBytes
    this.#ledger.moved(
      { vm: index, from, to, atMs: this.nowMs, sentBytes, avoidedBytes, costMsS },
      remainingMs,
    )
    return true
  }

  /** Until the end of the round, with the end of its move if that is in it. */
  #runVm(vm: PlacedVm, endMs: number): void {
    const { moving, spec } = vm
    const at = (node: number) => this.scene.latencyMs(this.slice, spec.index, node)
    if (moving === null || moving.endsAtMs > endMs) {
      this.#ledger.ran(this.slice, at(vm.node), endMs - this.nowMs)
      return
    }
    this.#ledger.ran(this.slice, at(vm.node), moving.endsAtMs - this.nowMs)
    this.#ledger.ran(this.slice, at(moving.to), endMs - moving.endsAtMs)
    this.#freeBytes[vm.node]! += spec.privateBytes + HEADROOM_BYTES
    this.movesOut[vm.node]!--
    this.movesIn[moving.to]!--
    vm.coolDown = coolDownAfterMove(
      agedCoolDown(vm.coolDown, moving.endsAtMs - vm.coolDownAtMs),
      String(vm.node),
      String(moving.to),
    )
    vm.coolDownAtMs = moving.endsAtMs
    vm.sinceMs = moving.endsAtMs
    vm.node = moving.to
    vm.moving = null
    this.#keepTemplate(vm.node, String(spec.template))
  }

  /** As an agent does when a template has come, or a VM on it. */
  #keepTemplate(node: number, templateId: string): void {
    const held = this.held[node]!
    held.delete(templateId)
    held.add(templateId)
    if (held.size <= this.scene.storedTemplates) return
    const needed = new Set(
      this.vms
        .values()
        .filter((vm) => vm.node === node || vm.moving?.to === node)
        .map(({ spec }) => String(spec.template)),
    )
    const candidates = held
      .values()
      .toArray()
      .map((id, order) => ({
        id,
        bytes: TEMPLATE_BYTES,
        usedAtMs: order,
        isElsewhere: this.held.some((other) => other !== held && other.has(id)),
        isInUse: needed.has(id),
      }))
    const limitBytes = this.scene.storedTemplates * TEMPLATE_BYTES
    for (const id of chooseForRemoval(candidates, limitBytes)) held.delete(id)
  }
}
