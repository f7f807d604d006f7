/**
 * Where VMs belong: what a move costs and gains, whether it is made now, and
 * whom to ask about a VM's clients. Values in, values out: time and chance are
 * given, and the network is reached in probing/ alone.
 *
 *     probes of clients, by nodes of the shortlist → latencySample
 *     samples + announcements                      → planRound → at most one move, and why each other isn't made
 *     a VM that has to leave                       → rankDestinations
 *
 * All gains and costs are in ms·s: see calm.ts.
 */
export { agedCoolDown, type CoolDown, NO_COOL_DOWN } from '../domain/cool-down.ts'
export {
  afterFailure,
  afterSuccess,
  type BackOff,
  type BackOffs,
  backOffRemainingMs,
  pairOf,
  recalledBackOffs,
} from './back-off.ts'
export { type Calm, DEFAULT_BANDWIDTH_BYTES_PER_SECOND, DEFAULT_CALM } from './calm.ts'
export {
  BASE_COOL_DOWN_MS,
  coolDownAfterMove,
  MAX_COOL_DOWN_MS,
  receivedCoolDown,
} from './cool-down.ts'
export {
  distanceMs,
  isCoordinate,
  locate,
  movedCoordinate,
  unknownCoordinate,
} from './coordinates.ts'
export { type ClientRoundTripsMs, type LatencySample, latencySample, latestLatencyMs } from './latency.ts'
export { LinkRates } from './link-rates.ts'
export type { Lead } from './pattern.ts'
export {
  BUDGET_MS,
  type ConsideredMove,
  type MoveSum,
  type Plan,
  planRound,
  type RoundInput,
} from './plan.ts'
export { type RankedDestination, type Ranking, rankDestinations, type UnfitDestination } from './rank.ts'
export { type MoveCost, moveCost } from './score.ts'
export { type AskableNode, MAX_SHORTLIST, type PlacedClient, shortlist } from './shortlist.ts'
export type { CandidateNode, OwnSituation, VmSituation } from './situation.ts'
export type { StayCode, StayReason, Verdict } from './verdict.ts'
