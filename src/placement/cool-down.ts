import { type CoolDown, NO_COOL_DOWN } from '../domain/cool-down.ts'
import { PEER_ID_PATTERN, type PeerIdText } from '../domain/vm.ts'

/** After its first move a VM stays this long. */
export const BASE_COOL_DOWN_MS = 60_000
/** Doubling ends here: also the most that a node that hands a VM over can bind the next one to. */
export const MAX_COOL_DOWN_MS = 3_600_000
/** A VM that stays so long has half of its lengthened cool-down forgiven. */
const HALVES_IN_MS = 600_000

/**
 * The cool-down of a VM that has just moved: BASE_COOL_DOWN_MS after a move
 * onward, twice the last one (what HALVES_IN_MS left of it) after a return.
 *
 * @param coolDown - as it was when it moved
 */
export function coolDownAfterMove(coolDown: CoolDown, from: PeerIdText, to: PeerIdText): CoolDown {
  const leftMs = coolDown.lengthMs * 0.5 ** (coolDown.sinceMoveMs / HALVES_IN_MS)
  const returned = coolDown.previousNode === to
  const wantedMs = returned ? 2 * leftMs : leftMs
  const lengthMs = Math.min(Math.max(wantedMs, BASE_COOL_DOWN_MS), MAX_COOL_DOWN_MS)
  return { remainingMs: lengthMs, lengthMs, previousNode: from, sinceMoveMs: 0 }
}

/** What a peer handed over with a VM, brought within bounds: nonsense counts as a VM that never moved. */
export function receivedCoolDown(claimed: CoolDown): CoolDown {
  const { previousNode } = claimed
  const numbers = [claimed.remainingMs, claimed.lengthMs, claimed.sinceMoveMs]
  if (numbers.some((ms) => !(ms >= 0 && ms < Infinity)) || previousNode === null) return NO_COOL_DOWN
  if (!PEER_ID_PATTERN.test(previousNode)) return NO_COOL_DOWN
  return {
    remainingMs: Math.min(claimed.remainingMs, MAX_COOL_DOWN_MS),
    lengthMs: Math.min(claimed.lengthMs, MAX_COOL_DOWN_MS),
    previousNode,
    sinceMoveMs: claimed.sinceMoveMs,
  }
}
