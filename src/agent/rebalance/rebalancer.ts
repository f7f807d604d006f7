import type { ConsideredMove, StayCode } from '../../placement/index.ts'

/** How the rebalancer of a node stands. */
export interface RebalancerStatus {
  /** A person has paused it: it looks on, and moves nothing. */
  paused: boolean
  /** Moves since the agent started: `decided` are those `made`, those `failed`, and one that may be under way. */
  moves: { decided: number; made: number; failed: number }
  /** Considered moves since the agent started, once for each look: those that were to be made, and those not, by reason. */
  verdicts: Partial<Record<StayCode | 'move', number>>
  /** VMs of this node that it may move. */
  vms: number
  /** When it looked last; null: not yet. */
  lookedAtMs: number | null
}

/** What moves VMs of this node by itself, as people see and steer it. */
export interface Rebalancer {
  status(): RebalancerStatus
  /** Each move of a VM of this node that it considered when it looked last. */
  plan(): readonly ConsideredMove[]
  /** Until `resume`, across restarts. A move under way goes on. */
  pause(): Promise<void>
  resume(): Promise<void>
}
