/** Axes of a coordinate besides its height: more gain little (Dabek et al., SIGCOMM 2004, section 5.4). */
export const COORDINATE_AXES = 3

/** Twice round the world by satellite and more: what says otherwise is lying or broken. */
export const MAX_COORDINATE_MS = 10_000
/** Guesses that are wronger say nothing either. */
export const MAX_COORDINATE_ERROR = 1.5

/**
 * Where a node is in the network, in ms of round trip, so that a distance
 * between two that never met can be guessed. Travels in announcements.
 */
export interface NodeCoordinate {
  /** COORDINATE_AXES numbers: a place in the middle of the network. */
  axesMs: readonly number[]
  /** What the node's own access line adds to every round trip, whatever the direction. */
  heightMs: number
  /** How wrong its guesses are lately, as a share of what was measured: 1 knows nothing, 0 never errs. */
  error: number
}
