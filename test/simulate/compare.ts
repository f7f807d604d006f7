import { seededRandom } from '../bench/random.ts'
import { DroverPolicy } from './drover-policy.ts'
import type { Totals } from './ledger.ts'
import { lowerBound, optimum } from './optimum.ts'
import { alwaysBest, never } from './plain-policies.ts'
import type { Scene } from './scene.ts'
import { type Policy, World } from './world.ts'

/** Planned ahead for all VMs in some seconds; with more nodes it takes hours. */
const MAX_PLANNED_NODES = 100

export interface Comparison {
  never: Totals
  alwaysBest: Totals
  withoutTemplateTerm: Totals
  drover: Totals
  /** Null with more than MAX_PLANNED_NODES. */
  optimum: Totals | null
  lowerBound: Totals | null
  /** CPU of one node's round (shortlists and plan), in ms. */
  roundCpuMs: { mean: number; p99: number; max: number }
}

/** Plays all policies in the same scene, each with the same chances. */
export function compare(scene: Scene, seed: number): Comparison {
  const play = (policy: Policy) => new World(scene, seededRandom(seed + 1)).run(policy)
  const chances = () => seededRandom(seed + 2)
  const drover = new DroverPolicy({ random: chances() })
  const withoutTemplateTerm = new DroverPolicy({
    name: 'drover, template free',
    templateTerm: false,
    random: chances(),
  })
  const planned = scene.nodes.length <= MAX_PLANNED_NODES
  return {
    never: play(never),
    alwaysBest: play(alwaysBest),
    withoutTemplateTerm: play(withoutTemplateTerm),
    drover: play(drover),
    optimum: planned ? optimum(scene) : null,
    lowerBound: planned ? lowerBound(scene) : null,
    roundCpuMs: cpuOf(drover.roundCpuMs),
  }
}

function cpuOf(roundsMs: readonly number[]): Comparison['roundCpuMs'] {
  const sorted = Float64Array.from(roundsMs).sort()
  let sumMs = 0
  for (const ms of sorted) sumMs += ms
  const p99 = sorted[Math.floor(0.99 * (sorted.length - 1))] ?? 0
  return { mean: sumMs / Math.max(1, sorted.length), p99, max: sorted.at(-1) ?? 0 }
}
