import type { PeerIdText } from '../domain/vm.ts'
import { type Calm, DEFAULT_CALM } from './calm.ts'
import { type MoveCost, moveCost, overloadMsS, unfitReason } from './score.ts'
import type { CandidateNode, VmSituation } from './situation.ts'
import type { StayReason } from './verdict.ts'

export interface RankedDestination {
  peerId: PeerIdText
  name: string
  cost: MoveCost
  /** What clients have from there; null: not measured. */
  latencyMs: number | null
  overloadMsS: number
  /** Higher is better; below 0 as a rule, as a move that has to be made isn't made for its gain. */
  netMsS: number
}

export interface UnfitDestination {
  peerId: PeerIdText
  name: string
  reason: StayReason
}

export interface Ranking {
  /** The best one first. */
  ranked: readonly RankedDestination[]
  unfit: readonly UnfitDestination[]
}

/**
 * Where a VM goes that has to leave, for a drained node say: the same sum as
 * planRound's, without what keeps VMs calm. Latency counts as if it lasted as
 * long as anything is expected to; a node that wasn't measured counts like the worst one that was.
 *
 * @param vm - its state, age and cool-down don't matter
 */
export function rankDestinations(
  vm: VmSituation,
  candidates: Iterable<CandidateNode>,
  calm: Pick<Calm, 'maxStableMs' | 'lastsTimes'> = DEFAULT_CALM,
): Ranking {
  const lastsMs = calm.maxStableMs * calm.lastsTimes
  const measured = vm.samples.at(-1)?.latencyMs ?? new Map<PeerIdText, number>()
  const worstMs = Math.max(0, ...measured.values())
  const ranked: RankedDestination[] = []
  const unfit: UnfitDestination[] = []
  for (const candidate of candidates) {
    const { peerId, name } = candidate
    const cost = moveCost(vm, candidate)
    const reason = unfitReason(vm, candidate, cost)
    if (reason !== null) {
      unfit.push({ peerId, name, reason })
      continue
    }
    const latencyMs = measured.get(peerId) ?? null
    const waitedMsS = ((latencyMs ?? worstMs) * lastsMs) / 1000
    const overload = overloadMsS(candidate, lastsMs)
    const netMsS = -waitedMsS - cost.totalMsS - overload
    ranked.push({ peerId, name, cost, latencyMs, overloadMsS: overload, netMsS })
  }
  ranked.sort((a, b) => b.netMsS - a.netMsS)
  return { ranked, unfit }
}
