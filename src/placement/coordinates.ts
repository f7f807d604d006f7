import {
  COORDINATE_AXES,
  MAX_COORDINATE_ERROR,
  MAX_COORDINATE_MS,
  type NodeCoordinate,
} from '../domain/coordinate.ts'

/**
 * Vivaldi with height vectors: F. Dabek, R. Cox, F. Kaashoek, R. Morris,
 * "Vivaldi: A Decentralized Network Coordinate System", SIGCOMM 2004. Each
 * measured round trip is a spring between two nodes, and moves the one that
 * measured. Only a hint whom to ask: nothing is decided by a guessed distance.
 */

/** How far one round trip moves a node, and its error: c_c and c_e of the paper. */
const STEP_SHARE = 0.25
const ERROR_SHARE = 0.25
/** No access line is faster: keeps heights above zero, as the paper asks for. */
const MIN_HEIGHT_MS = 0.1
const MIN_ERROR = 0.01

/** A node that has measured nothing yet. */
export function unknownCoordinate(): NodeCoordinate {
  return { axesMs: new Array<number>(COORDINATE_AXES).fill(0), heightMs: MIN_HEIGHT_MS, error: 1 }
}

/** Whether a coordinate can be used: those of peers are checked with this before anything else. */
export function isCoordinate({ axesMs, heightMs, error }: NodeCoordinate): boolean {
  return (
    axesMs.length === COORDINATE_AXES &&
    axesMs.every((ms) => Math.abs(ms) <= MAX_COORDINATE_MS) &&
    heightMs >= 0 &&
    heightMs <= MAX_COORDINATE_MS &&
    error >= 0 &&
    error <= MAX_COORDINATE_ERROR
  )
}

/** The guessed round trip between two nodes: along the axes, and down both access lines. */
export function distanceMs(a: NodeCoordinate, b: NodeCoordinate): number {
  // Not Math.hypot: a shortlist guesses thousands of these, and that is ten times slower.
  let squares = 0
  for (let axis = 0; axis < COORDINATE_AXES; axis++) {
    squares += ((a.axesMs[axis] ?? 0) - (b.axesMs[axis] ?? 0)) ** 2
  }
  return Math.sqrt(squares) + a.heightMs + b.heightMs
}

/**
 * The own coordinate after a round trip to a peer was measured.
 *
 * @param peer - checked by `isCoordinate`
 * @param rttMs - above 0, at most MAX_COORDINATE_MS; others teach nothing
 * @param random - from 0 to below 1: the way apart for two nodes at one place
 */
export function movedCoordinate(
  own: NodeCoordinate,
  peer: NodeCoordinate,
  rttMs: number,
  random: () => number,
): NodeCoordinate {
  if (!(rttMs > 0 && rttMs <= MAX_COORDINATE_MS)) return own
  const guessedMs = distanceMs(own, peer)
  const sureness = own.error / Math.max(own.error + peer.error, MIN_ERROR)
  const missedShare = Math.abs(guessedMs - rttMs) / rttMs
  const error = missedShare * ERROR_SHARE * sureness + own.error * (1 - ERROR_SHARE * sureness)

  const forceMs = STEP_SHARE * sureness * (rttMs - guessedMs)
  const apartMs = awayFrom(own, peer, random)
  const lengthMs = Math.hypot(...apartMs)
  // Heights add up in a difference, so a pull lowers both and a push raises both (section 5.4).
  const wholeMs = lengthMs + own.heightMs + peer.heightMs
  const axesMs = own.axesMs.map((ms, axis) => bounded(ms + (forceMs * (apartMs[axis] ?? 0)) / wholeMs))
  const heightMs = own.heightMs + (forceMs * (own.heightMs + peer.heightMs)) / wholeMs
  return {
    axesMs,
    heightMs: Math.min(Math.max(heightMs, MIN_HEIGHT_MS), MAX_COORDINATE_MS),
    error: Math.min(Math.max(error, MIN_ERROR), MAX_COORDINATE_ERROR),
  }
}

/**
 * Where something is that only answers, such as a VM's client: the coordinate
 * that fits best what nodes with coordinates measured of it.
 *
 * @returns null with fewer than three round trips: they say a circle, not a place
 */
export function locate(
  measured: readonly { from: NodeCoordinate; rttMs: number }[],
  random: () => number,
): NodeCoordinate | null {
  if (measured.length < 3) return null
  let place = unknownCoordinate()
  for (let pass = 0; pass < LOCATE_PASSES; pass++) {
    for (const { from, rttMs } of measured) place = movedCoordinate(place, from, rttMs, random)
  }
  return place
}
/** Springs come to rest in some ten passes; few round trips, so it costs nothing. */
const LOCATE_PASSES = 12

/** From the peer to the own place, with a random way where they are the same. */
function awayFrom(own: NodeCoordinate, peer: NodeCoordinate, random: () => number): number[] {
  const apartMs = differenceMs(own, peer)
  if (Math.hypot(...apartMs) > 0) return apartMs
  return apartMs.map(() => MIN_HEIGHT_MS * (random() - 0.5))
}

function differenceMs(a: NodeCoordinate, b: NodeCoordinate): number[] {
  return a.axesMs.map((ms, axis) => ms - (b.axesMs[axis] ?? 0))
}

function bounded(ms: number): number {
  return Math.min(Math.max(ms, -MAX_COORDINATE_MS), MAX_COORDINATE_MS)
}
