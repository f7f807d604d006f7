import type { RoundReport } from '../domain/migration.ts'
import { THROTTLE_PERIOD_MS } from '../memory/index.ts'

/** Rounds after which the guest is stopped or given up in any case. */
const MAX_ROUNDS = 30
/** So little costs less in the blackout than another round would: about what a link takes in one go. */
const FEW_BYTES = 64 * 1024
/** What the pages of the last round may cost of the blackout without another try to have fewer. */
const TARGET_LAST_ROUND_MS = 5
/** A round that isn't smaller than this share of the one before it gains nothing. */
const PROGRESS_SHARE = 0.75
/** Pages that a guest may rewrite all the time: however short a round is, it finds them again. */
const HOT_PAGES = 64
/** Less than this says nothing about the link: it disappears in buffers. */
const MIN_RATE_BYTES = 256 * 1024
/** The guest runs at full speed for so long before it is stopped: QEMU takes 1 to 3 ms to stop it. */
const UNTHROTTLED_MS = 3
/** Rounds that are looked at for the fastest that a slowed guest writes: it does so in bursts, when it may run. */
const BURST_ROUNDS = 3
/** Stop, device state, load, Ready and Grant: measured 6 to 20 ms on loopback. */
const SWITCHOVER_MS = 20
/** Of the target, what a guest that is slowed down is stopped at: the rest is for what the prediction misses. */
const AMPLE_SHARE = 0.7
/** Rounds at the last step, before the guest is given up. */
const SLOWEST_ROUNDS = 6
/**
 * What a slowed guest writes ahead of a round that is under way is read with it, and is missing in the next: one that
 * writes as fast as the link carries kept ahead all the time, and of 2,400 pages a second 320 were found. Rounds so much
 * shorter than the one before them don't tell how much it writes.
 */
const TELLING_SHARE = 0.5
/** A round of more than this share of the one before it isn't smaller. */
const UNCHANGED_SHARE = 0.9
/** Measured: timers, and what a guest does in the few milliseconds that it has. */
const MIN_REAL_SPEED = 0.05
/** Tried for when nobody asked for another: what stock QEMU aims at (`downtime-limit`). */
const TARGET_BLACKOUT_MS = 300
/**
 * Shares of the time that a guest may be frozen, in percent. Even steps of its
 * speed at first; then halves of what is left, as the rate halves with them.
 */
export const THROTTLE_STEPS = [20, 40, 60, 80, 90, 95, 99] as const

/** A round as the decision sees it: `ms` is until the next could begin. */
export interface RoundTaken extends RoundReport {
  /** Of `ms`, what the pages were under way for: without the start of the destination's QEMU. */
  linkMs: number
}

export interface Limits {
  /** null: nobody asked; it tries for 300 ms and takes up to `hardBlackoutMs`. */
  maxBlackoutMs: number | null
  hardBlackoutMs: number
  /** Round trip to the destination; the hand-over takes two. */
  rttMs: number
  /** What the user allows the link to carry; Infinity: no limit. */
  maxBytesPerMs: number
}

/** What the next round, or the blackout in its place, would be. */
export interface Prediction {
  blackoutMs: number
  /** Of it, what is so however little the guest writes. */
  handOverMs: number
  /** What the guest changes, at its present throttle. */
  writtenBytesPerMs: number
  linkBytesPerMs: number
}

export type RoundDecision = { prediction: Prediction } & (
  | { kind: 'another-round' }
  /** Stop the guest and send the rest. */
  | { kind: 'switch-over' }
  /** Slow the guest down to this, then another round. */
  | { kind: 'throttle'; percent: number }
  /** The limit on the blackout can't be kept. */
  | { kind: 'give-up'; allowedMs: number }
)

/**
 * What to do after a round. Stop when the rest is small or another round would
 * not make it smaller, and the predicted blackout is within its target; slow
 * the guest down when rounds don't shrink and it isn't.
 *
 * @param rounds - at least one
 */
export function decideAfterRound(rounds: readonly RoundTaken[], limits: Limits): RoundDecision {
  const last = rounds.at(-1)!
  const { nextPages, lastRoundBytes, lastRoundMs, ...prediction } = predict(rounds, limits)
  const targetMs = limits.maxBlackoutMs ?? TARGET_BLACKOUT_MS
  const within = prediction.blackoutMs <= targetMs
  const small = lastRoundBytes <= FEW_BYTES || lastRoundMs <= TARGET_LAST_ROUND_MS
  const shrinks = nextPages < last.pages * PROGRESS_SHARE || rounds.length === 1
  // A guest that is slowed down waits no longer than it must; slowed down as far as can be, it can't do better.
  const isSlowest = last.throttlePercent === THROTTLE_STEPS.at(-1)
  const ample = last.throttlePercent > 0 && prediction.blackoutMs <= targetMs * (isSlowest ? 1 : AMPLE_SHARE)
  // What a throttle does, the rounds after the first at it show.
  const previous = rounds.at(-2)
  const isKnown = (previous?.throttlePercent ?? 0) === last.throttlePercent && isTelling(previous, last)
  if (!isKnown && rounds.length < MAX_ROUNDS) return { kind: 'another-round', prediction }
  if (within && (small || ample || !shrinks)) return { kind: 'switch-over', prediction }
  // A few pages that miss the target do so for the way to the destination: no throttle makes that shorter.
  const hopeless = prediction.handOverMs > targetMs
  if (rounds.length < MAX_ROUNDS && !(hopeless && small)) {
    if (shrinks) return { kind: 'another-round', prediction }
    const percent = nextStep(rounds, prediction)
    if (percent !== null) return { kind: 'throttle', percent, prediction }
    // So much of the time rounds go up and down: one of them may do.
    if (
      !rounds.slice(-SLOWEST_ROUNDS).every(({ throttlePercent }) => throttlePercent === last.throttlePercent)
    ) {
      return { kind: 'another-round', prediction }
    }
  }
  const allowedMs = limits.maxBlackoutMs ?? limits.hardBlackoutMs
  return prediction.blackoutMs <= allowedMs
    ? { kind: 'switch-over', prediction }
    : { kind: 'give-up', allowedMs, prediction }
}

/**
 * The pages of a round were written during the one before it, at the throttle
 * of that one. A guest that goes on so writes in proportion to the time that it runs.
 */
function predict(
  rounds: readonly RoundTaken[],
  { rttMs, maxBytesPerMs }: Limits,
): Prediction & { nextPages: number; lastRoundBytes: number; lastRoundMs: number } {
  const last = rounds.at(-1)!
  const previous = rounds.at(-2)
  const linkBytesPerMs = Math.min(linkRate(rounds), maxBytesPerMs)
  // One round tells what is there, not how fast it came: no more than that is likely.
  let [nextPages, pagesAtSpeed] = [last.pages, 0]
  if (previous !== undefined) {
    const pagesPerMs = writtenPagesPerMs(previous, last)
    nextPages = Math.max(pagesPerMs * last.ms, Math.min(last.pages, HOT_PAGES))
    // What a throttle really leaves is more than its share says, the more so the less that is.
    pagesAtSpeed = (pagesPerMs / Math.max(speed(last), MIN_REAL_SPEED)) * UNTHROTTLED_MS
  }
  const lastRoundBytes = (nextPages + pagesAtSpeed) * bytesPerPage(last)
  const lastRoundMs = lastRoundBytes / linkBytesPerMs
  const handOverMs = SWITCHOVER_MS + 2 * rttMs
  const burstMs = (burstPages(rounds) * bytesPerPage(sum(rounds.slice(-BURST_ROUNDS)))) / linkBytesPerMs
  return {
    nextPages,
    lastRoundBytes,
    lastRoundMs,
    blackoutMs: handOverMs + lastRoundMs + burstMs,
    handOverMs,
    writtenBytesPerMs: (nextPages * bytesPerPage(last)) / Math.max(last.ms, 1),
    linkBytesPerMs,
  }
}

/**
 * What a slowed guest may write beyond its mean, in pages: of each period it runs for one piece, and what it could not
 * write meanwhile it may write in that. A round shorter than a period has such a piece in it, or not.
 */
function burstPages(rounds: readonly RoundTaken[]): number {
  if (rounds.at(-1)!.throttlePercent === 0) return 0
  const pagesPerMs = rounds
    .slice(-BURST_ROUNDS)
    .map((round, i, { length }) => writtenPagesPerMs(rounds.at(i - length - 1) ?? round, round))
  return Math.max(...pagesPerMs) * THROTTLE_PERIOD_MS
}

/** Whether a round tells what a slowed guest writes: see TELLING_SHARE. */
function isTelling(previous: RoundTaken | undefined, { ms, throttlePercent }: RoundTaken): boolean {
  if (throttlePercent === 0 || previous === undefined) return true
  return ms > previous.ms * TELLING_SHARE || previous.ms <= 2 * THROTTLE_PERIOD_MS
}

/** What was written during `previous`, and is in `round`, at the throttle of `round`. */
function writtenPagesPerMs(previous: RoundTaken, round: RoundTaken): number {
  return ((round.pages / Math.max(previous.ms, 1)) * speed(round)) / speed(previous)
}

/**
 * The first step at which the rounds would shrink; the last one when none would, null when it is taken. A guest that
 * rewrites the same pages within a round writes faster than it looks: where a step changed nothing, one is left out.
 */
function nextStep(rounds: readonly RoundTaken[], prediction: Prediction): number | null {
  const { writtenBytesPerMs, linkBytesPerMs } = prediction
  const { throttlePercent: percent, pages } = rounds.at(-1)!
  const unslowed = rounds.findLast(({ throttlePercent }) => throttlePercent < percent)
  const changedNothing = unslowed !== undefined && pages > unslowed.pages * UNCHANGED_SHARE
  const steps = THROTTLE_STEPS.filter((step) => step > percent).slice(changedNothing ? -3 : 0)
  const unthrottled = writtenBytesPerMs / (1 - percent / 100)
  const enough = (step: number) => unthrottled * (1 - step / 100) < linkBytesPerMs * PROGRESS_SHARE
  return steps.find(enough) ?? steps.at(-1) ?? null
}

/** Of the last round that was large enough to tell; a small one only hints at least so much. */
function linkRate(rounds: readonly RoundTaken[]): number {
  const telling = rounds.findLast(({ bytes }) => bytes >= MIN_RATE_BYTES)
  if (telling !== undefined) return telling.bytes / Math.max(telling.linkMs, 1)
  return Math.max(...rounds.map(({ bytes, linkMs }) => bytes / Math.max(linkMs, 1)), Number.MIN_VALUE)
}

function bytesPerPage({ pages, bytes }: Pick<RoundReport, 'pages' | 'bytes'>): number {
  return pages === 0 ? 0 : bytes / pages
}

function sum(rounds: readonly RoundTaken[]): { pages: number; bytes: number } {
  return rounds.reduce(
    (total, { pages, bytes }) => ({ pages: total.pages + pages, bytes: total.bytes + bytes }),
    { pages: 0, bytes: 0 },
  )
}

function speed({ throttlePercent }: RoundReport): number {
  return 1 - throttlePercent / 100
}
