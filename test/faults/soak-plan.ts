/** What the soak does next: all of it from random numbers, and as many for each move, so that a seed says everything. Pure. */
import { MOVE_BOUNDARIES } from '../../src/migration/boundaries.ts'
import type { Expectation, FaultCase, FaultTime } from './fault-case.ts'
import {
  agentKilled,
  agentStopped,
  agentUpgraded,
  byteFlipped,
  diskFull,
  type Fault,
  linkCut,
  linkSlow,
  nothing,
  qemuKilled,
  qemuStopped,
} from './faults.ts'

/** Within what a move takes, and a little after. */
const MAX_AFTER_MS = 1_500
/** Short stops are as telling as long ones, and there can be more of them. */
const MAX_STOP_MS = 4_000
const LONG_STOP_MS = 10_000
const LONG_STOP_SHARE = 0.1
const BOUNDARY_SHARE = 0.7

export interface PlannedMove {
  /** Index among the VMs. */
  vm: number
  /** How many nodes on, from 1. */
  step: number
  faultCase: FaultCase
}

interface Weighted {
  weight: number
  fault: (random: { side: 'source' | 'destination'; ms: number; direction: number }) => Fault
}

const DIRECTIONS = ['to the destination', 'to the source', 'both ways'] as const

const FAULTS: readonly Weighted[] = [
  { weight: 45, fault: () => nothing },
  { weight: 16, fault: ({ side }) => agentKilled(side) },
  { weight: 10, fault: ({ side }) => agentUpgraded(side) },
  { weight: 6, fault: ({ side }) => qemuKilled(side) },
  { weight: 6, fault: ({ side, ms }) => agentStopped(side, ms) },
  { weight: 4, fault: ({ side, ms }) => qemuStopped(side, ms) },
  { weight: 5, fault: ({ direction }) => byteFlipped(DIRECTIONS[direction % 2] as 'to the source') },
  { weight: 3, fault: () => linkSlow },
  { weight: 2, fault: ({ direction }) => linkCut(DIRECTIONS[direction]!) },
  { weight: 3, fault: ({ side }) => diskFull(side) },
]

export function planMove(random: () => number, init: { vms: number; nodes: number }): PlannedMove {
  const below = (count: number) => Math.floor(random() * count)
  const vm = below(init.vms)
  const step = 1 + below(init.nodes - 1)
  const fault = pick(random(), {
    side: below(2) === 0 ? 'source' : 'destination',
    ms: random() < LONG_STOP_SHARE ? LONG_STOP_MS : random() * MAX_STOP_MS,
    direction: below(DIRECTIONS.length),
  })
  const at = pickTime(random(), random(), below(2) === 0 ? 'source' : 'destination')
  return {
    vm,
    step,
    faultCase: { fault, at: fault === nothing ? { afterMs: 0 } : at, expected: expect(fault) },
  }
}

function pick(share: number, parameters: Parameters<Weighted['fault']>[0]): Fault {
  let left = share * FAULTS.reduce((sum, { weight }) => sum + weight, 0)
  for (const { weight, fault } of FAULTS) {
    if (left < weight) return fault(parameters)
    left -= weight
  }
  return nothing
}

function pickTime(kind: number, where: number, side: 'source' | 'destination'): FaultTime {
  if (kind >= BOUNDARY_SHARE) return { afterMs: Math.floor(where * MAX_AFTER_MS) }
  const boundaries = MOVE_BOUNDARIES[side]
  return { side, boundary: boundaries[Math.floor(where * boundaries.length)]! }
}

function expect(fault: Fault): Expectation {
  return { owner: null, outcome: fault === nothing ? 'completed' : null, errorCode: null }
}
