/**
 * What keeps a mesh calm and what its moves are worth: the numbers of the
 * rebalancer in one place, chosen by `npm run simulate` (README, How it works).
 *
 * Unit of gains and costs: **ms·s**, one millisecond of the round trip that a
 * VM's clients have on average, for one second.
 */
export interface Calm {
  /** A saving below this, or below the share of what clients have now, is noise. */
  minSavedMs: number
  minSavedShare: number
  /** Probes in a row, the latest included, that have to agree on that. */
  minSamples: number
  /** Agreement is broken by a gap between samples that is longer than this. */
  maxSampleGapMs: number
  /** How far back agreement counts; samples that are older are of no use. */
  maxStableMs: number
  /** What has lasted so long is expected to last so many times that, and what was only just seen `leastLastsMs`. */
  lastsTimes: number
  leastLastsMs: number
  /** Of the price of a missing template, what one move has to earn: the template stays, for siblings and for returns. */
  templateShare: number
  /** A VM that has just started is still finding out what it does. */
  minAgeMs: number
  /** Moves that one node starts in an hour. */
  maxMovesPerHour: number
  /** Of the rounds in which a node could start a move it takes so many: nodes that see the same don't act at once. */
  startShare: number
}

export const DEFAULT_CALM: Calm = {
  minSavedMs: 3,
  minSavedShare: 0.08,
  minSamples: 2,
  maxSampleGapMs: 60_000,
  // Nothing is expected to last longer than 3 × 225 s.
  maxStableMs: 225_000,
  lastsTimes: 3,
  leastLastsMs: 120_000,
  templateShare: 0.5,
  minAgeMs: 30_000,
  maxMovesPerHour: 60,
  startShare: 0.75,
}

/** What a move takes of the nodes, as latency: the price of a second in which the link is busy with it. */
export const LINK_BUSY_MS = 500
/** Price of taking all memory that is free at the destination, in ms·s; a part of it costs that part. */
export const ALL_MEMORY_MS_S = 2_000
/** Price of each second in which clients get no answer, beside the wait itself: connections time out. */
export const BLACKOUT_MS = 5_000
/** Price of each runnable process per CPU beyond the first and beyond those here, for each second that the VM is there. */
export const OVERLOAD_MS = 50
/** Where nothing was ever sent to a node: an uplink of 10 Mbit/s, so that the first guess errs to staying. */
export const DEFAULT_BANDWIDTH_BYTES_PER_SECOND = 1_250_000
