import type { MoveCost } from '../../src/placement/index.ts'
import { ROUND_MS } from './scene.ts'

/** Where a VM is free to move. */
export interface Step {
  round: number
  node: number
}

export interface BestPathInit {
  nodes: number
  rounds: number
  startNode: number
  /** What the VM's users have from a node in a round. */
  latencyMs(round: number, node: number): number
  /** By node: since when it holds the VM's template, whatever this VM does; Infinity: never. */
  heldFromMs: readonly number[]
  held: MoveCost
  missing: MoveCost
  /** Of the price of a missing template, what this VM pays. */
  paidShare: number
}

/** Nodes to which a path has brought the template, the latest first. */
interface Brought {
  node: number
  before: Brought | null
}

/**
 * The cheapest way of one VM through rounds and nodes, by dynamic programming:
 *
 *     least[t + 1][a]  ≤  least[t][a] + latency of a in round t                       stay
 *     least[t + k][b]  ≤  least[t][a] + latency of a until the transfer is over,
 *                         of b for the rest of round t + k - 1, + cost of the move    move
 *
 * Exact where `heldFromMs` has all templates. Otherwise each state keeps the
 * templates of its cheapest path only, so that the result is a good plan rather than a proven best.
 */
export class BestPath {
  readonly #init: BestPathInit
  /** State: round × nodes + node. */
  readonly #least: Float64Array
  readonly #from: Int32Array
  readonly #brought: (Brought | null)[]
  /** Latency until a state's round, in ms·s. */
  readonly #waitedMsS: Float64Array

  constructor(init: BestPathInit) {
    this.#init = init
    const { nodes, rounds, latencyMs } = init
    const states = (rounds + 1) * nodes
    this.#least = new Float64Array(states).fill(Infinity)
    this.#from = new Int32Array(states).fill(-1)
    this.#brought = new Array<Brought | null>(states).fill(null)
    this.#waitedMsS = new Float64Array(states)
    for (let state = 0; state < states - nodes; state++) {
      const roundMsS = (latencyMs(Math.floor(state / nodes), state % nodes) * ROUND_MS) / 1000
      this.#waitedMsS[state + nodes] = this.#waitedMsS[state]! + roundMsS
    }
    this.#least[init.startNode] = 0
    for (let round = 0; round < rounds; round++) this.#relaxRound(round)
  }

  /** From the first round to the end of the last one. */
  steps(): Step[] {
    const { nodes, rounds } = this.#init
    let last = rounds * nodes
    for (let state = last; state < this.#least.length; state++) {
      if (this.#least[state]! < this.#least[last]!) last = state
    }
    const steps: Step[] = []
    for (let state = last; state !== -1; state = this.#from[state]!) {
      steps.push({ round: Math.floor(state / nodes), node: state % nodes })
    }
    return steps.reverse()
  }

  #relaxRound(round: number): void {
    const { nodes, held, missing } = this.#init
    for (let state = round * nodes; state < (round + 1) * nodes; state++) {
      this.#relax(state + nodes, this.#least[state]! + this.#waitMsS(state, state + nodes), state)
    }
    this.#relaxMoves(round, held)
    this.#relaxMoves(round, missing)
  }

  #relaxMoves(round: number, cost: MoveCost): void {
    const { nodes, rounds, held, heldFromMs } = this.#init
    const end = round + Math.ceil(cost.transferMs / ROUND_MS)
    if (end > rounds) return
    // Wherever it goes to, it costs the same: only the cheapest node to leave matters...
    let [bestMsS, best] = [Infinity, -1]
    for (let state = round * nodes; state < (round + 1) * nodes; state++) {
      if (this.#least[state] === Infinity) continue
      const leftMsS = this.#leaveMsS(state, end, cost)
      if (leftMsS < bestMsS) [bestMsS, best] = [leftMsS, state]
      if (cost !== held) continue
      // ...but for where the path itself has brought the template.
      for (let own = this.#brought[state] ?? null; own !== null; own = own.before) {
        if (own.node !== state % nodes) this.#arrive(end * nodes + own.node, end, cost, leftMsS, state)
      }
    }
    for (let node = 0; node < nodes && best !== -1; node++) {
      const isHeld = heldFromMs[node]! <= round * ROUND_MS
      if (node !== best % nodes && isHeld === (cost === held)) {
        this.#arrive(end * nodes + node, end, cost, bestMsS, best)
      }
    }
  }

  /** A path's cost at the end of its transfer, in round `end - 1`. */
  #leaveMsS(state: number, end: number, { transferMs, totalMsS, templateMsS }: MoveCost): number {
    const { nodes, paidShare } = this.#init
    const round = Math.floor(state / nodes)
    const arrived = state + (end - round) * nodes
    const restShare = end - round - transferMs / ROUND_MS
    const waitedMsS = this.#waitMsS(state, arrived) - restShare * this.#waitMsS(arrived - nodes, arrived)
    return this.#least[state]! + totalMsS - templateMsS * (1 - paidShare) + waitedMsS
  }

  #arrive(state: number, end: number, cost: MoveCost, leftMsS: number, from: number): void {
    const { nodes, missing } = this.#init
    const restShare = end - Math.floor(from / nodes) - cost.transferMs / ROUND_MS
    const costMsS = leftMsS + restShare * this.#waitMsS(state - nodes, state)
    if (!this.#relax(state, costMsS, from) || cost !== missing) return
    this.#brought[state] = { node: state % nodes, before: this.#brought[from] ?? null }
  }

  #relax(state: number, costMsS: number, from: number): boolean {
    if (costMsS >= this.#least[state]!) return false
    this.#least[state] = costMsS
    this.#from[state] = from
    this.#brought[state] = this.#brought[from] ?? null
    return true
  }

  #waitMsS(state: number, later: number): number {
    return this.#waitedMsS[later]! - this.#waitedMsS[state]!
  }
}
