import { type MoveCost, moveCost, NO_COOL_DOWN, type VmSituation } from '../../src/placement/index.ts'
import { Ledger, type Totals } from './ledger.ts'
import { NODE_BYTES, ROUND_MS, ROUNDS_PER_SLICE, type Scene, type SceneVm, TEMPLATE_BYTES } from './scene.ts'
import { World } from './world.ts'

/**
 * What moves cost at the least, with the whole future known: dynamic
 * programming over (round, node), for each VM by itself.
 *
 *     least[t + 1][a]  ≤  least[t][a] + latency of a in round t                       stay
 *     least[t + k][b]  ≤  least[t][a] + latency of a until the transfer is over,
 *                         of b for the rest of round t + k - 1, + cost of the move    move
 *
 * Transfers take their time and cost what they cost everyone; links carry all
 * moves at once, there is room everywhere, and no calm rules slow anything.
 *
 * A template comes with a VM and stays, for that VM and those planned after it.
 * Who pays for it is what makes the joint optimum hard, so there are two answers,
 * and the optimum lies between them:
 *
 * - `lowerBound`: every node holds every template. No policy gets below it.
 * - `optimum`: plans that can be carried out, templates paid for where they were
 *   missing. VMs are planned as if they paid the whole, a third or a ninth of a
 *   template, as others use it after them; the plan that costs least is taken.
 */
export function lowerBound(scene: Scene): Totals {
  const everywhere = scene.holders.map(() => scene.nodes.map(() => 0))
  return new Foresight(scene, everywhere, 1).totals('lower bound')
}

/** The best plan that was found. */
export function optimum(scene: Scene): Totals {
  const plans = PAID_SHARES.map((share) => {
    const heldFromMs = scene.holders.map((nodes) =>
      scene.nodes.map((_, node) => (nodes.includes(node) ? 0 : Infinity)),
    )
    return new Foresight(scene, heldFromMs, share).totals('optimum')
  })
  return plans.reduce((best, plan) => (plan.totalMs < best.totalMs ? plan : best))
}

const PAID_SHARES = [1, 1 / 3, 1 / 9]

/** Nodes to which a path has brought the template, the latest first. */
interface Brought {
  node: number
  before: Brought | null
}

/** Where a VM is free to move. */
interface Step {
  round: number
  node: number
}

class Foresight {
  readonly #scene: Scene
  /** Template → node → since when it is held. */
  readonly #heldFromMs: number[][]
  readonly #paidShare: number
  readonly #ledger = new Ledger()

  constructor(scene: Scene, heldFromMs: number[][], paidShare: number) {
    this.#scene = scene
    this.#heldFromMs = heldFromMs
    this.#paidShare = paidShare
    for (const vm of scene.vms) this.#play(vm, this.#bestPath(vm))
  }

  totals(name: string): Totals {
    return this.#ledger.totals(name)
  }

  #latencyMs(vm: SceneVm, round: number, node: number): number {
    return this.#scene.latencyMs(Math.floor(round / ROUNDS_PER_SLICE), vm.index, node)
  }

  #bestPath(vm: SceneVm): Step[] {
    const nodes = this.#scene.nodes.length
    const rounds = this.#scene.slices.length * ROUNDS_PER_SLICE
    const heldFromMs = this.#heldFromMs[vm.template]!
    const costs = { held: leastCost(this.#scene, vm, true), missing: leastCost(this.#scene, vm, false) }
    const least = new Float64Array((rounds + 1) * nodes).fill(Infinity)
    const from = new Int32Array((rounds + 1) * nodes).fill(-1)
    const brought = new Array<Brought | null>((rounds + 1) * nodes).fill(null)
    const relax = (state: number, costMsS: number, previous: number, chain: Brought | null) => {
      if (costMsS >= least[state]!) return
      least[state] = costMsS
      from[state] = previous
      brought[state] = chain
    }
    /** What it costs to be free at the end of a move: up to the destination's share of the last round. */
    const leaveMsS = (round: number, state: number, { transferMs, totalMsS, templateMsS }: MoveCost) => {
      const end = round + Math.ceil(transferMs / ROUND_MS)
      let sumMsS = least[state]! + totalMsS - templateMsS * (1 - this.#paidShare)
      for (let t = round; t < end; t++) sumMsS += (this.#latencyMs(vm, t, state % nodes) * ROUND_MS) / 1000
      const restMs = (end - round) * ROUND_MS - transferMs
      return sumMsS - (this.#latencyMs(vm, end - 1, state % nodes) * restMs) / 1000
    }
    const arrive = (round: number, node: number, cost: MoveCost, sumMsS: number, state: number) => {
      const end = round + Math.ceil(cost.transferMs / ROUND_MS)
      const restMs = (end - round) * ROUND_MS - cost.transferMs
      const before = brought[state] ?? null
      const chain = cost === costs.missing ? { node, before } : before
      relax(end * nodes + node, sumMsS + (this.#latencyMs(vm, end - 1, node) * restMs) / 1000, state, chain)
    }

    least[vm.startNode] = 0
    for (let round = 0; round < rounds; round++) {
      for (let node = 0; node < nodes; node++) {
        const state = round * nodes + node
        relax(
          state + nodes,
          least[state]! + (this.#latencyMs(vm, round, node) * ROUND_MS) / 1000,
          state,
          brought[state] ?? null,
        )
      }
      for (const cost of Object.values(costs)) {
        if (round + Math.ceil(cost.transferMs / ROUND_MS) > rounds) continue
        // Wherever it goes to, it costs the same: only the cheapest node to leave matters...
        let [bestMsS, best] = [Infinity, -1]
        for (let node = 0; node < nodes; node++) {
          const state = round * nodes + node
          if (least[state] === Infinity) continue
          const sumMsS = leaveMsS(round, state, cost)
          if (sumMsS < bestMsS) [bestMsS, best] = [sumMsS, state]
          if (cost === costs.missing) continue
          // ...but for where the path itself has brought the template.
          for (let own = brought[state] ?? null; own !== null; own = own.before) {
            if (own.node !== node) arrive(round, own.node, cost, sumMsS, state)
          }
        }
        for (let node = 0; node < nodes && best !== -1; node++) {
          const held = heldFromMs[node]! <= round * ROUND_MS
          if (node !== best % nodes && held === (cost === costs.held))
            arrive(round, node, cost, bestMsS, best)
        }
      }
    }
    let last = rounds * nodes
    for (let state = last; state < (rounds + 1) * nodes; state++)
      if (least[state]! < least[last]!) last = state
    const path: Step[] = []
    for (let state = last; state !== -1; state = from[state]!) {
      path.unshift({ round: Math.floor(state / nodes), node: state % nodes })
    }
    return path
  }

  /** Carries a path out: books what it costs, and what it brings where. */
  #play(vm: SceneVm, path: readonly Step[]): void {
    const heldFromMs = this.#heldFromMs[vm.template]!
    for (const [index, { round, node }] of path.entries()) {
      const next = path[index + 1]
      if (next === undefined) break
      const atMs = round * ROUND_MS
      const held = heldFromMs[next.node]! <= atMs
      const cost = leastCost(this.#scene, vm, held)
      const overMs = next.node === node ? next.round * ROUND_MS : atMs + cost.transferMs
      for (let t = round; t < next.round; t++) {
        const hereMs = Math.min(ROUND_MS, Math.max(0, overMs - t * ROUND_MS))
        const slice = Math.floor(t / ROUNDS_PER_SLICE)
        this.#ledger.ran(slice, this.#latencyMs(vm, t, node), hereMs)
        this.#ledger.ran(slice, this.#latencyMs(vm, t, next.node), ROUND_MS - hereMs)
      }
      if (next.node === node) continue
      heldFromMs[next.node] = Math.min(heldFromMs[next.node]!, overMs)
      const { privateBytes, dirtiedBytes, templateBytes, totalMsS: costMsS } = cost
      const sentBytes = privateBytes + dirtiedBytes + templateBytes
      const avoidedBytes = TEMPLATE_BYTES - templateBytes
      this.#ledger.moved({ vm: vm.index, from: node, to: next.node, atMs, sentBytes, avoidedBytes, costMsS })
    }
  }
}

/** What a move of the VM costs to a node that is empty. */
function leastCost(scene: Scene, vm: SceneVm, held: boolean): MoveCost {
  const world = new World({ ...scene, vms: [vm] }, () => 0)
  const situation: VmSituation = { ...world.situation(world.vms[0]!), samples: [], coolDown: NO_COOL_DOWN }
  const templates = new Set(held ? [situation.templateId] : [])
  return moveCost(situation, { ...world.candidate(0), templates, availableBytes: NODE_BYTES })
}
