import { type MoveCost, moveCost, NO_COOL_DOWN, type VmSituation } from '../../src/placement/index.ts'
import { BestPath, type Step } from './best-path.ts'
import { Ledger, type Totals } from './ledger.ts'
import { ROUND_MS, ROUNDS_PER_SLICE, type Scene, type SceneVm, TEMPLATE_BYTES } from './scene.ts'
import { describedVm, emptyNode } from './world.ts'

/**
 * What VMs cost at the least, with the whole future known: a best path for each
 * VM by itself. Transfers take their time and cost what they cost everyone; links
 * carry all moves at once, there is room everywhere, in stores too, and no calm rules
 * slow anything.
 *
 * A template comes with a VM and stays, for that VM and those planned after it.
 * Who pays for it is what makes the joint optimum hard, so there are two answers,
 * and the optimum lies between them:
 *
 * - `lowerBound`: every node holds every template. No policy gets below it.
 * - `optimum`: plans that can be carried out, templates paid for where they were
 *   missing. VMs are planned as if they paid the whole, a third or a ninth of a
 *   template, as others use it after them; the plan that really costs least is taken.
 */
export function lowerBound(scene: Scene): Totals {
  const everywhere = scene.holders.map(() => scene.nodes.map(() => 0))
  return planned(scene, everywhere, 1, 'lower bound')
}

/** The best plan that was found. */
export function optimum(scene: Scene): Totals {
  const plans = PAID_SHARES.map((paidShare) => {
    const heldFromMs = scene.holders.map((nodes) =>
      scene.nodes.map((_, node) => (nodes.includes(node) ? 0 : Infinity)),
    )
    return planned(scene, heldFromMs, paidShare, 'optimum')
  })
  return plans.reduce((best, plan) => (plan.totalMs < best.totalMs ? plan : best))
}

const PAID_SHARES = [1, 1 / 3, 1 / 9]

/** @param heldFromMs - template → node → since when it is held; plans add to it */
function planned(scene: Scene, heldFromMs: readonly number[][], paidShare: number, name: string): Totals {
  const ledger = new Ledger()
  const rounds = scene.slices.length * ROUNDS_PER_SLICE
  for (const vm of scene.vms) {
    const [held, missing] = [leastCost(vm, true), leastCost(vm, false)]
    const path = new BestPath({
      nodes: scene.nodes.length,
      rounds,
      startNode: vm.startNode,
      latencyMs: (round, node) => latencyMs(scene, vm, round, node),
      heldFromMs: heldFromMs[vm.template]!,
      held,
      missing,
      paidShare,
    })
    carryOut(scene, vm, path.steps(), { held, missing }, heldFromMs[vm.template]!, ledger)
  }
  return ledger.totals(name)
}

/** Books what a path costs, and what it brings where. */
function carryOut(
  scene: Scene,
  vm: SceneVm,
  steps: readonly Step[],
  { held, missing }: { held: MoveCost; missing: MoveCost },
  heldFromMs: number[],
  ledger: Ledger,
): void {
  for (const [index, { round, node: from }] of steps.entries()) {
    const next = steps[index + 1]
    if (next === undefined) break
    const atMs = round * ROUND_MS
    const cost = heldFromMs[next.node]! <= atMs ? held : missing
    const overMs = next.node === from ? next.round * ROUND_MS : atMs + cost.transferMs
    for (let t = round; t < next.round; t++) {
      const hereMs = Math.min(ROUND_MS, Math.max(0, overMs - t * ROUND_MS))
      const slice = Math.floor(t / ROUNDS_PER_SLICE)
      ledger.ran(slice, latencyMs(scene, vm, t, from), hereMs)
      ledger.ran(slice, latencyMs(scene, vm, t, next.node), ROUND_MS - hereMs)
    }
    if (next.node === from) continue
    heldFromMs[next.node] = Math.min(heldFromMs[next.node]!, overMs)
    const sentBytes = cost.privateBytes + cost.dirtiedBytes + cost.templateBytes
    const avoidedBytes = TEMPLATE_BYTES - cost.templateBytes
    ledger.moved({ vm: vm.index, from, to: next.node, atMs, sentBytes, avoidedBytes, costMsS: cost.totalMsS })
  }
}

function latencyMs(scene: Scene, vm: SceneVm, round: number, node: number): number {
  return scene.latencyMs(Math.floor(round / ROUNDS_PER_SLICE), vm.index, node)
}

/** What a move of the VM costs to a node that is empty. */
function leastCost(spec: SceneVm, held: boolean): MoveCost {
  const vm: VmSituation = {
    ...describedVm(spec),
    state: 'running',
    ageMs: 0,
    samples: [],
    coolDown: NO_COOL_DOWN,
  }
  const node = emptyNode('empty')
  return moveCost(vm, held ? { ...node, templates: new Set([vm.templateId]) } : node)
}
