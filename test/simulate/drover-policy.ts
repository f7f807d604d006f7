import type { NodeCoordinate } from '../../src/domain/coordinate.ts'
import {
  type Calm,
  type CandidateNode,
  DEFAULT_CALM,
  type LatencySample,
  latencySample,
  latestLatencyMs,
  locate,
  movedCoordinate,
  type PlacedClient,
  planRound,
  shortlist,
  unknownCoordinate,
  type VmSituation,
} from '../../src/placement/index.ts'
import { MAX_USERS, ROUNDS_PER_SLICE } from './scene.ts'
import type { PlacedVm, Policy, Wish, World } from './world.ts'

/** Peers that a node pings in a round, for its coordinate. */
const PINGS_PER_ROUND = 2
/** A VM's shortlist is made anew so often. */
const LIST_EVERY_ROUNDS = 3
/** Users' places are guessed anew so often. */
const LOCATE_EVERY_ROUNDS = 2 * ROUNDS_PER_SLICE
/** Before there is a plan, coordinates have had time to come to rest. */
const WARM_UP_PINGS = 200

export interface DroverPolicyInit {
  name?: string
  /** False: every node counts as if it held every template. */
  templateTerm?: boolean
  calm?: Calm
  random: () => number
}

/**
 * drover's own code (coordinates, shortlist, samples, plan, cool-down), in each
 * node for its own VMs. A node knows what it measured, and of others what they announce.
 */
export class DroverPolicy implements Policy {
  readonly name: string
  readonly #templateTerm: boolean
  readonly #calm: Calm
  readonly #random: () => number
  readonly #memories = new Map<number, VmMemory>()
  readonly #startedAtMs = new Map<number, number[]>()
  #coordinates: NodeCoordinate[] = []
  /** CPU of rounds, in ms: shortlists and plan of one node each. */
  readonly roundCpuMs: number[] = []

  constructor({ name = 'drover', templateTerm = true, calm = DEFAULT_CALM, random }: DroverPolicyInit) {
    this.name = name
    this.#templateTerm = templateTerm
    this.#calm = calm
    this.#random = random
  }

  *decide(world: World): Iterable<Wish> {
    this.#pingPeers(world)
    const vmsByNode = Map.groupBy(world.vms, ({ node }) => node)
    // Of nodes that decide in one round each sees what the ones before it began.
    for (const [node, vms] of vmsByNode) yield* this.#decideAt(world, node, vms)
  }

  *#decideAt(world: World, node: number, vms: readonly PlacedVm[]): Iterable<Wish> {
    const { nowMs } = world
    for (const vm of vms) this.#probe(world, vm)
    const candidates = new Map<string, CandidateNode>()
    for (const vm of vms) {
      for (const peerId of this.#memories.get(vm.spec.index)?.asked ?? []) {
        if (!candidates.has(peerId)) candidates.set(peerId, this.#announced(world, Number(peerId)))
      }
    }
    const startedAtMs = (this.#startedAtMs.get(node) ?? []).filter((atMs) => atMs > nowMs - 3_600_000)
    const startMs = cpuMs()
    const { chosen } = planRound(
      {
        own: {
          peerId: String(node),
          nowMs,
          load: 0,
          movesOut: world.movesOut[node]!,
          startedAtMs,
          backOffs: new Map(),
        },
        vms: vms.map(
          (vm): VmSituation => ({
            ...world.situation(vm),
            samples: this.#memories.get(vm.spec.index)?.samples ?? [],
            coolDown: world.coolDownOf(vm),
          }),
        ),
        candidates,
      },
      this.#random,
      this.#calm,
    )
    this.roundCpuMs.push(cpuMs() - startMs + this.#shortlistMs)
    this.#shortlistMs = 0
    if (chosen?.to == null) return
    this.#startedAtMs.set(node, [...startedAtMs, nowMs])
    yield { vm: Number(chosen.vmId), to: Number(chosen.to.peerId) }
  }
  #shortlistMs = 0
  #allTemplates: ReadonlySet<string> | null = null

  #announced(world: World, node: number): CandidateNode {
    const candidate = world.candidate(node)
    if (this.#templateTerm) return candidate
    this.#allTemplates ??= new Set(world.scene.holders.keys().map(String))
    return { ...candidate, templates: this.#allTemplates }
  }

  /** This round's probes of one VM's users: by its node, and by those on the shortlist. */
  #probe(world: World, vm: PlacedVm): void {
    const { scene, round, nowMs } = world
    const { users, index, template } = vm.spec
    let memory = this.#memories.get(index)
    // Samples stay behind when a VM moves.
    if (memory === undefined || memory.node !== vm.node) {
      memory = {
        node: vm.node,
        samples: [],
        clients: memory?.clients ?? [],
        asked: [],
        locatedInRound: -Infinity,
      }
      this.#memories.set(index, memory)
    }
    if (round % LIST_EVERY_ROUNDS === index % LIST_EVERY_ROUNDS || memory.asked.length === 0) {
      const nodes = scene.nodes.map((_, node) => ({
        peerId: String(node),
        coordinate: this.#coordinates[node]!,
        holdsTemplate: !this.#templateTerm || world.held[node]!.has(String(template)),
      }))
      nodes.splice(vm.node, 1)
      const startMs = cpuMs()
      const measuredMs = latestLatencyMs(memory.samples)
      memory.asked = shortlist(nodes, memory.clients, measuredMs, this.#random)
      this.#shortlistMs += cpuMs() - startMs
    }
    const tripsMs = new Map<string, readonly (number | null)[]>()
    for (const peerId of [String(vm.node), ...memory.asked]) {
      tripsMs.set(peerId, world.probesMs(index, Number(peerId)))
    }
    memory.samples.push(latencySample(nowMs, String(vm.node), weightsOf(vm), tripsMs))
    while (memory.samples[0]!.atMs < nowMs - this.#calm.maxStableMs) memory.samples.shift()
    if (round - memory.locatedInRound < LOCATE_EVERY_ROUNDS) return
    memory.locatedInRound = round
    memory.clients = users.map((_, user): PlacedClient => {
      const measured = [...tripsMs].flatMap(([peerId, trips]) => {
        const rttMs = trips[user] ?? null
        return rttMs === null ? [] : [{ from: this.#coordinates[Number(peerId)]!, rttMs }]
      })
      return { weight: 1, coordinate: locate(measured, this.#random) }
    })
  }

  #pingPeers({ scene, slice }: World): void {
    const count = scene.nodes.length
    const first = this.#coordinates.length === 0
    if (first) this.#coordinates = scene.nodes.map(unknownCoordinate)
    for (let ping = 0; ping < (first ? WARM_UP_PINGS : PINGS_PER_ROUND); ping++) {
      for (const node of scene.nodes.keys()) {
        const peer = Math.floor(this.#random() * count)
        const rttMs = scene.roundTrips.measuredMs(
          scene.slices[slice]!,
          scene.nodes[node]!,
          scene.nodes[peer]!,
        )
        if (peer === node) continue
        this.#coordinates[node] = movedCoordinate(
          this.#coordinates[node]!,
          this.#coordinates[peer]!,
          rttMs,
          this.#random,
        )
      }
    }
  }
}

function cpuMs(): number {
  const { user, system } = process.threadCpuUsage()
  return (user + system) / 1000
}

function weightsOf({ spec }: PlacedVm): readonly number[] {
  return EQUAL_WEIGHTS.slice(0, spec.users.length)
}
const EQUAL_WEIGHTS: readonly number[] = new Array(MAX_USERS).fill(1)

/** What the node that has a VM knows of its users. */
interface VmMemory {
  node: number
  samples: LatencySample[]
  clients: PlacedClient[]
  asked: string[]
  locatedInRound: number
}
