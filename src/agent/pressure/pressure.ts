const MIB = 1024 ** 2

/**
 * Whether a node is about to run out of memory. Pure: samples in, a state out.
 *
 *     available   ------------\                      /------
 *       clear at  .............\..................../.......   twice the low mark
 *       low mark  ..............\__________________/........
 *                  calm          | 3 samples: pressed | 3 samples: calm
 */

/** Measured just now. */
export interface MemorySample {
  /** Of the machine, in bytes; `available` without swapping (proc(5), MemAvailable). */
  totalBytes: number
  availableBytes: number
  /** `--memory-limit`, and what VMs and templates take of it. */
  limitBytes: number | null
  committedBytes: number
  /** Share of the last 10 s in which every task waited for memory, in percent (Linux, psi.rst, full avg10); null: not told. */
  stallPercent: number | null
}

/** Why a node is pressed: little is available, guests grew beyond the limit, or the machine waits for memory. */
export type PressureCause = 'memory-low' | 'over-limit' | 'stalls'

export type Pressure =
  | { kind: 'calm'; lowSamples: number }
  | { kind: 'pressed'; cause: PressureCause; clearSamples: number }

export const CALM: Pressure = { kind: 'calm', lowSamples: 0 }

/** A guest that needs much for a moment is no pressure, and one moment of ease is no end of it. */
const SAMPLES = 3
/** What the kernel wants to keep free itself is below 1 %; a move needs seconds in which guests write on. */
const LOW_SHARE = 0.05
const MIN_LOW_BYTES = 128 * MIB
const MAX_LOW_BYTES = 1024 * MIB
const CLEAR_TIMES = 2
const CLEAR_LIMIT_SHARE = 0.95
/** systemd-oomd kills at 60 % for 30 s (oomd.conf(5)): a VM should be gone by then. */
const STALL_PERCENT = 20
const CLEAR_STALL_PERCENT = 5

/** Below it a machine is short of memory. */
export function lowMarkBytes(totalBytes: number): number {
  return Math.min(Math.max(totalBytes * LOW_SHARE, MIN_LOW_BYTES), MAX_LOW_BYTES)
}

/** The state after one more sample. */
export function nextPressure(before: Pressure, sample: MemorySample): Pressure {
  const cause = causeOf(sample)
  if (before.kind === 'calm') {
    if (cause === null) return CALM
    const lowSamples = before.lowSamples + 1
    return lowSamples < SAMPLES ? { kind: 'calm', lowSamples } : { kind: 'pressed', cause, clearSamples: 0 }
  }
  if (cause !== null || !isClear(sample)) return { ...before, cause: cause ?? before.cause, clearSamples: 0 }
  const clearSamples = before.clearSamples + 1
  return clearSamples < SAMPLES ? { ...before, clearSamples } : CALM
}

function causeOf(sample: MemorySample): PressureCause | null {
  const { totalBytes, availableBytes, limitBytes, committedBytes, stallPercent } = sample
  if (availableBytes < lowMarkBytes(totalBytes)) return 'memory-low'
  if (limitBytes !== null && committedBytes > limitBytes) return 'over-limit'
  return (stallPercent ?? 0) >= STALL_PERCENT ? 'stalls' : null
}

/** That nothing of it comes back with the next guest that writes something. */
function isClear(sample: MemorySample): boolean {
  const { totalBytes, availableBytes, limitBytes, committedBytes, stallPercent } = sample
  return (
    availableBytes >= CLEAR_TIMES * lowMarkBytes(totalBytes) &&
    committedBytes <= CLEAR_LIMIT_SHARE * (limitBytes ?? Number.POSITIVE_INFINITY) &&
    (stallPercent ?? 0) <= CLEAR_STALL_PERCENT
  )
}

/** A VM that may be moved away, with what that takes. */
export interface Movable {
  id: string
  /** Memory of its own: what its going frees. */
  ownBytes: number
  /** What must be sent to the best node with room; the template, where that lacks it, too. */
  sendBytes: number
}

/** The VM whose move frees the most for each byte that is sent, of equal ones the largest; null where there is none. */
export function chooseToMove(vms: readonly Movable[]): Movable | null {
  const worth = ({ ownBytes, sendBytes }: Movable) => ownBytes / Math.max(sendBytes, 1)
  return vms.toSorted((a, b) => worth(b) - worth(a) || b.ownBytes - a.ownBytes)[0] ?? null
}
