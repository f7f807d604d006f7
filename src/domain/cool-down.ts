import type { PeerIdText } from './vm.ts'

/**
 * How long a VM has to stay where it is, and what makes that longer. Travels
 * with the VM: durations only, because clocks of nodes differ.
 */
export interface CoolDown {
  /** From now on; 0: it may move. */
  remainingMs: number
  /** How long the last one was at its begin. */
  lengthMs: number
  /** Where the VM was before: going back there doubles the length. Null: it never moved. */
  previousNode: PeerIdText | null
  /** Since it left that node; 0 without one. */
  sinceMoveMs: number
}

/** Of a VM that never moved. */
export const NO_COOL_DOWN: CoolDown = { remainingMs: 0, lengthMs: 0, previousNode: null, sinceMoveMs: 0 }

/** The cool-down after `elapsedMs` more. */
export function agedCoolDown(coolDown: CoolDown, elapsedMs: number): CoolDown {
  const passedMs = Math.max(0, elapsedMs)
  return {
    ...coolDown,
    remainingMs: Math.max(0, coolDown.remainingMs - passedMs),
    sinceMoveMs: coolDown.previousNode === null ? 0 : coolDown.sinceMoveMs + passedMs,
  }
}

/** A cool-down on disk, by the clock of the node that the VM is on. */
export interface KeptCoolDown extends CoolDown {
  atMs: number
}

/** What a kept one is by now. A clock that was set back makes it no longer than it was. */
export function coolDownAt({ atMs, ...kept }: KeptCoolDown, nowMs: number): CoolDown {
  return agedCoolDown(kept, nowMs - atMs)
}
