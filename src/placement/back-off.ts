import type { PeerIdText, VmId } from '../domain/vm.ts'

/** After one failure, and after the many that doubling ends at. */
const FIRST_BACK_OFF_MS = 30_000
const MAX_BACK_OFF_MS = 1_800_000
/** Failures so long past say nothing of today. */
const FORGOTTEN_AFTER_MS = 3_600_000
/** Nodes that failed together don't try again together. */
const JITTER_SHARE = 0.5

export interface BackOff {
  failures: number
  /** When it may be tried again, on this node's clock. */
  untilMs: number
}

/** By VM id, by peer id and by `pairOf` both, as a move that fails says something of these. Of one node, and not handed on. */
export type BackOffs = ReadonlyMap<string, BackOff>

/** A VM at a node: another node can have it meanwhile, and that node other VMs. */
export function pairOf(vmId: VmId, peerId: PeerIdText): string {
  return `${vmId} ${peerId}`
}

/** What is left to wait for a VM, a node or a pair, 0: nothing. */
export function backOffRemainingMs(backOffs: BackOffs, id: string, nowMs: number): number {
  return Math.max(0, (backOffs.get(id)?.untilMs ?? nowMs) - nowMs)
}

/**
 * After a move failed or was refused: what it says something of waits, twice as long each time.
 *
 * @param random - from 0 to below 1
 */
export function afterFailure(
  backOffs: BackOffs,
  ids: readonly string[],
  nowMs: number,
  random: () => number,
): BackOffs {
  const next = new Map([...backOffs].filter(([, { untilMs }]) => untilMs + FORGOTTEN_AFTER_MS > nowMs))
  for (const id of ids) {
    const failures = (next.get(id)?.failures ?? 0) + 1
    const waitMs = Math.min(FIRST_BACK_OFF_MS * 2 ** (failures - 1), MAX_BACK_OFF_MS)
    next.set(id, { failures, untilMs: nowMs + waitMs * (1 + JITTER_SHARE * random()) })
  }
  return next
}

/** Those of an earlier run of the agent: none waits longer than it could from now, wherever the clock was then. */
export function recalledBackOffs(backOffs: BackOffs, nowMs: number): BackOffs {
  const mostMs = nowMs + MAX_BACK_OFF_MS * (1 + JITTER_SHARE)
  return new Map(
    [...backOffs].map(([id, { failures, untilMs }]) => [
      id,
      { failures, untilMs: Math.min(untilMs, mostMs) },
    ]),
  )
}

/** After a move was made: what failed before is forgiven. */
export function afterSuccess(backOffs: BackOffs, ids: readonly string[]): BackOffs {
  return new Map([...backOffs].filter(([id]) => !ids.includes(id)))
}
