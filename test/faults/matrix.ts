/** Every fault at every boundary of a move, as far as it makes sense there, and what must come of it. */
import { MOVE_BOUNDARIES, type MoveSide } from '../../src/migration/boundaries.ts'
import type { Failpoint } from './failpoint-control.ts'
import type { Expectation, FaultCase } from './fault-case.ts'
import {
  agentKilled,
  agentStopped,
  byteFlipped,
  diskFull,
  diskFullThenKilled,
  type Fault,
  linkCut,
  linkSlow,
  memoryShort,
  qemuKilled,
  qemuStopped,
} from './faults.ts'

/** A template of which 85 MiB are there, a VM that is moved, two more, and less than twice GROWTH_MIB beside them. */
export const MATRIX_MEMORY_LIMIT_BYTES = 285 * 1024 ** 2

const SIDES = ['source', 'destination'] as const

export function matrix(): FaultCase[] {
  const faults: { fault: Fault; applies: (at: Failpoint) => boolean }[] = [
    ...SIDES.flatMap((side) => [agentKilled(side), agentStopped(side)].map(everywhere)),
    ...SIDES.flatMap((side) =>
      [qemuKilled(side), qemuStopped(side)].map((fault) => ({
        fault,
        applies: (at: Failpoint) => hasQemu(side, at),
      })),
    ),
    ...(['to the destination', 'to the source', 'both ways'] as const).map(linkCut).map(everywhere),
    everywhere(linkSlow),
    ...(['to the destination', 'to the source'] as const).map(byteFlipped).map(everywhere),
    ...SIDES.flatMap((side) => [diskFull(side), diskFullThenKilled(side)].map(everywhere)),
    ...SIDES.map(memoryShort).map(everywhere),
  ]
  return faults.flatMap(({ fault, applies }) =>
    failpoints()
      .filter(applies)
      .map((at) => ({ fault, at, expected: expectation(fault, at) })),
  )
}

function failpoints(): Failpoint[] {
  return SIDES.flatMap((side) => MOVE_BOUNDARIES[side].map((boundary) => ({ side, boundary })))
}

function everywhere(fault: Fault) {
  return { fault, applies: () => true }
}

/** Of the source's there is one until the VM has left, of the destination's from its launch on. */
function hasQemu(side: MoveSide, at: Failpoint): boolean {
  if (side === 'source') return !isAtOrAfter(at, { side: 'source', boundary: 'left' })
  const launched: Failpoint =
    at.side === 'source'
      ? { side: 'source', boundary: 'prepared' }
      : { side: 'destination', boundary: 'launched' }
  return isAtOrAfter(at, launched)
}

/** Boundaries of one side come one after the other; of two sides it is not known. */
function isAtOrAfter(at: Failpoint, than: Failpoint): boolean {
  const order: readonly string[] = MOVE_BOUNDARIES[at.side]
  return at.side === than.side && order.indexOf(at.boundary) >= order.indexOf(than.boundary)
}

function expectation(fault: Fault, at: Failpoint): Expectation {
  const none: Expectation = { owner: null, outcome: null, errorCode: null }
  if (fault.name === 'source agent killed' && at.side === 'source') {
    if (isAtOrAfter(at, { side: 'source', boundary: 'running-heard' }))
      return { ...none, owner: 'destination' }
    // Held before the Grant has left.
    if (!isAtOrAfter(at, { side: 'source', boundary: 'grant-sent' })) return { ...none, owner: 'source' }
  }
  if (fault.name === 'destination agent killed' && at.side === 'destination') {
    const isTaken = isAtOrAfter(at, { side: 'destination', boundary: 'grant-journaled' })
    return { ...none, owner: isTaken ? 'destination' : 'source' }
  }
  if (fault.name === 'destination agent killed' && at.side === 'source') {
    if (!isAtOrAfter(at, { side: 'source', boundary: 'grant-sent' })) return { ...none, owner: 'source' }
  }
  if (fault.name === 'memory short at the source') return { ...none, outcome: 'completed' }
  if (fault.name === 'memory short at the destination') return shortOfMemory(at)
  if (fault.name === 'link slow') return { ...none, outcome: 'completed' }
  return none
}

/** The destination looks at its memory once more when the guest is loaded; after that it keeps its word. */
function shortOfMemory(at: Failpoint): Expectation {
  const promised: Failpoint =
    at.side === 'source'
      ? { side: 'source', boundary: 'ready-heard' }
      : { side: 'destination', boundary: 'loaded' }
  if (isAtOrAfter(at, promised)) return { owner: 'destination', outcome: 'completed', errorCode: null }
  // The destination looks while the source is held here: before the other guest grows, or after.
  const isOpen = at.side === 'source' && at.boundary === 'finish-sent'
  if (isOpen) return { owner: null, outcome: null, errorCode: null }
  return { owner: 'source', outcome: 'refused', errorCode: 'NOT_ENOUGH_MEMORY' }
}
