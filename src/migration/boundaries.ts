import { channel } from 'node:diagnostics_channel'
import type { MigrationId } from '../domain/vm.ts'

/**
 * Where a move passes from one phase into the next, in order. Told on the
 * diagnostics channel MOVE_BOUNDARY_CHANNEL, synchronously: whoever subscribes
 * may look, measure, or hold the move right there. Nobody does in production,
 * and then a boundary costs one look at a flag, also in the blackout.
 */
export const MOVE_BOUNDARIES = {
  source: [
    /** The record says that the VM is being moved. */
    'departed',
    'offered',
    'accepted',
    'prepared',
    /** After each round but the last. */
    'round-applied',
    'stopped',
    'state-saved',
    'finish-sent',
    'ready-heard',
    /** The doubt is on disk, the Grant has not left. */
    'doubt-journaled',
    'grant-sent',
    'running-heard',
    'left',
  ],
  destination: [
    'reserved',
    'accept-sent',
    'template-here',
    'launched',
    'prepared-sent',
    /** After each round, the last one too. */
    'round-applied',
    'finish-heard',
    /** Loaded, verified, paused; Ready has not left. */
    'loaded',
    'ready-sent',
    'grant-heard',
    /** The VM is this node's on disk, the guest still paused. */
    'grant-journaled',
    'resumed',
    'running-sent',
  ],
} as const

export type MoveSide = keyof typeof MOVE_BOUNDARIES
export type MoveBoundary<S extends MoveSide> = (typeof MOVE_BOUNDARIES)[S][number]

export const MOVE_BOUNDARY_CHANNEL = 'drover:move-boundary'

/** What subscribers of MOVE_BOUNDARY_CHANNEL get. */
export interface BoundaryPassed {
  side: MoveSide
  boundary: string
  migrationId: MigrationId
}

const passed = channel(MOVE_BOUNDARY_CHANNEL)

export function passBoundary<S extends MoveSide>(
  side: S,
  boundary: MoveBoundary<S>,
  migrationId: MigrationId,
): void {
  if (passed.hasSubscribers) passed.publish({ side, boundary, migrationId } satisfies BoundaryPassed)
}
