import type { PeerIdText, VmId } from '../domain/vm.ts'
import { backOffRemainingMs, pairOf } from './back-off.ts'
import { type Calm, DEFAULT_CALM } from './calm.ts'
import { type Lead, leadOf } from './pattern.ts'
import { type MoveCost, moveCost, overloadMsS, unfitReason } from './score.ts'
import type { CandidateNode, OwnSituation, VmSituation } from './situation.ts'
import type { StayReason, Verdict } from './verdict.ts'

/** Gain and cost of one move, in ms·s (calm.ts). */
export interface MoveSum {
  lead: Lead
  cost: MoveCost
  /** How long the lead is expected to last: as long as it has, times `lastsTimes`, and no less than `leastLastsMs`. */
  lastsMs: number
  /** The saving for that time. */
  gainMsS: number
  /** What the move has to earn: its cost, with `templateShare` of the template. */
  costMsS: number
  /** Waiting for CPUs there, as far as it is more than here: no VM is moved for its node's load alone. */
  overloadMsS: number
  /** gain - cost - overload: above 0 the move pays. */
  netMsS: number
}

/** A VM and a node that it was compared with. */
export interface ConsideredMove {
  vmId: VmId
  vmName: string
  /** Null, as is the sum: the VM could be compared with no node. */
  to: { peerId: PeerIdText; name: string } | null
  sum: MoveSum | null
  verdict: Verdict
}

export interface RoundInput {
  own: OwnSituation
  vms: readonly VmSituation[]
  /** By peer id; without this node. */
  candidates: ReadonlyMap<PeerIdText, CandidateNode>
}

export interface Plan {
  /** Every VM with every node that its clients were measured from lately; the best sum first. */
  considered: readonly ConsideredMove[]
  /** The one to start now: one of `considered`. */
  chosen: ConsideredMove | null
}

/** The hour of `maxMovesPerHour`. */
export const BUDGET_MS = 3_600_000

/**
 * One round of the rebalancer: compares every VM of this node with every node
 * that its clients were measured from, and chooses at most one move. Starts
 * nothing and remembers nothing: the same input and random number give the same plan.
 *
 * @param random - from 0 to below 1; `() => 0` for a plan that is only shown
 */
export function planRound(input: RoundInput, random: () => number, calm: Calm = DEFAULT_CALM): Plan {
  const considered = input.vms
    .flatMap((vm) => considerVm(vm, input, calm))
    .sort((a, b) => (b.sum?.netMsS ?? -Infinity) - (a.sum?.netMsS ?? -Infinity))
  // Each VM waits for the best of its nodes: the next best one would only cost it a second move.
  const aimed = new Set<VmId>()
  let chosen: ConsideredMove | null = null
  for (const move of considered) {
    if (move.verdict.kind === 'stay' || move.to === null) continue
    const first = chosen === null && !aimed.has(move.vmId)
    aimed.add(move.vmId)
    const reason = first ? turnReason(move.to.peerId, input, random, calm) : another()
    if (reason === null) chosen = move
    else move.verdict = { kind: 'stay', reason }
  }
  return { considered, chosen }
}

/** The VM with each of its nodes; the verdict is `move` for those that pay. */
function considerVm(vm: VmSituation, { own, candidates }: RoundInput, calm: Calm): ConsideredMove[] {
  const hindrance = vmReason(vm, own, calm)
  const { id: vmId, name: vmName } = vm
  const measured = vm.samples.at(-1)?.latencyMs ?? new Map<PeerIdText, number>()
  const moves: ConsideredMove[] = []
  for (const peerId of measured.keys()) {
    const candidate = candidates.get(peerId)
    if (candidate === undefined || peerId === own.peerId) continue
    const lead = leadOf(vm.samples, own.peerId, peerId, own.nowMs, calm)
    if (lead === null) continue
    const sum = sumOf(vm, candidate, { own, lead, calm })
    const reason = hindrance ?? unfitReason(vm, candidate, sum.cost) ?? failedReason(vm, candidate, own)
    moves.push({
      vmId,
      vmName,
      to: { peerId, name: candidate.name },
      sum,
      verdict: verdictOf(reason ?? gainReason(sum, calm)),
    })
  }
  if (moves.length > 0) return moves
  return [{ vmId, vmName, to: null, sum: null, verdict: verdictOf(hindrance ?? { code: 'not-measured' }) }]
}

function sumOf(
  vm: VmSituation,
  candidate: CandidateNode,
  { own, lead, calm }: { own: OwnSituation; lead: Lead; calm: Calm },
): MoveSum {
  const cost = moveCost(vm, candidate)
  // What isn't there lasts for nothing.
  const lastsMs = lead.samples === 0 ? 0 : Math.max(calm.leastLastsMs, lead.stableMs * calm.lastsTimes)
  const gainMsS = (lead.savedMs * lastsMs) / 1000
  const costMsS = cost.totalMsS - (1 - calm.templateShare) * cost.templateMsS
  const overload = Math.max(0, overloadMsS(candidate, lastsMs) - overloadMsS(own, lastsMs))
  return {
    lead,
    cost,
    lastsMs,
    gainMsS,
    costMsS,
    overloadMsS: overload,
    netMsS: gainMsS - costMsS - overload,
  }
}

function vmReason(vm: VmSituation, own: OwnSituation, calm: Calm): StayReason | null {
  if (vm.mode === 'pinned') return { code: 'pinned' }
  if (vm.state !== 'running') return { code: 'not-running', state: vm.state }
  if (vm.ageMs < calm.minAgeMs) return { code: 'too-young', remainingMs: calm.minAgeMs - vm.ageMs }
  const { remainingMs } = vm.coolDown
  if (remainingMs > 0) return { code: 'in-cool-down', remainingMs }
  const backOffMs = backOffRemainingMs(own.backOffs, vm.id, own.nowMs)
  return backOffMs > 0 ? { code: 'vm-backs-off', remainingMs: backOffMs } : null
}

function failedReason(
  { id }: VmSituation,
  { peerId }: CandidateNode,
  { backOffs, nowMs }: OwnSituation,
): StayReason | null {
  const waitsMs = [peerId, pairOf(id, peerId)].map((what) => backOffRemainingMs(backOffs, what, nowMs))
  const remainingMs = Math.max(...waitsMs)
  return remainingMs > 0 ? { code: 'destination-backs-off', remainingMs } : null
}

function gainReason({ lead, netMsS }: MoveSum, calm: Calm): StayReason | null {
  if (lead.samples === 0) return { code: 'saves-too-little', neededMs: lead.neededMs }
  if (lead.samples < calm.minSamples) {
    return { code: 'not-held', samples: lead.samples, neededSamples: calm.minSamples }
  }
  return netMsS > 0 ? null : { code: 'costs-more' }
}

/** What makes a move that pays wait; null: it starts now. */
function turnReason(
  to: PeerIdText,
  { own, candidates }: RoundInput,
  random: () => number,
  calm: Calm,
): StayReason | null {
  if (own.movesOut > 0) return { code: 'node-busy' }
  if ((candidates.get(to)?.movesIn ?? 0) > 0) return { code: 'destination-busy' }
  const lastHourMs = own.startedAtMs.filter((atMs) => atMs > own.nowMs - BUDGET_MS)
  if (lastHourMs.length >= calm.maxMovesPerHour) {
    return { code: 'budget-spent', remainingMs: Math.min(...lastHourMs) + BUDGET_MS - own.nowMs }
  }
  return random() < calm.startShare ? null : { code: 'next-round' }
}

function another(): StayReason {
  return { code: 'another-gains-more' }
}

function verdictOf(reason: StayReason | null): Verdict {
  return reason === null ? { kind: 'move' } : { kind: 'stay', reason }
}
