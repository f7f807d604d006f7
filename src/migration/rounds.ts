import type { RoundReport } from '../domain/migration.ts'

/** Rounds after which the guest is stopped in any case: it writes as fast as the link carries. */
const MAX_ROUNDS = 30
/** So few pages cost less in the blackout than another round trip would. */
const FEW_PAGES = 64
/** What the pages of the last round may cost of the blackout without another try to have fewer. */
const TARGET_LAST_ROUND_MS = 5
/** A round that isn't smaller than this share of the one before it gained nothing. */
const PROGRESS_SHARE = 0.75
/** Stop, device state, load, Ready and Grant: measured 6 to 20 ms on loopback. */
const SWITCHOVER_MS = 20

export type RoundDecision =
  | { kind: 'another-round' }
  /** Stop the guest and send the rest. */
  | { kind: 'switch-over'; predictedBlackoutMs: number }
  /** The limit on the blackout can't be kept. */
  | { kind: 'give-up'; predictedBlackoutMs: number }

/**
 * What to do after a round, from what the rounds so far took. The guest is
 * assumed to go on writing as it did during the last round: what the last
 * round sent is what the next would.
 *
 * @param maxBlackoutMs - the guest may stand still for so long
 * @param rttMs - round trip to the destination; the hand-over takes two
 */
export function decideAfterRound(
  rounds: readonly RoundReport[],
  { maxBlackoutMs, rttMs }: { maxBlackoutMs: number; rttMs: number },
): RoundDecision {
  const last = rounds.at(-1)
  if (last === undefined) return { kind: 'another-round' }
  // The first round's time holds the start of the destination's QEMU: it says nothing about the link.
  const lastRoundMs = rounds.length === 1 ? 0 : last.ms
  const predictedBlackoutMs = SWITCHOVER_MS + 2 * rttMs + lastRoundMs
  const withinLimit = predictedBlackoutMs <= maxBlackoutMs
  const few = last.pages <= FEW_PAGES || last.ms <= TARGET_LAST_ROUND_MS
  if (few && withinLimit) return { kind: 'switch-over', predictedBlackoutMs }
  if (rounds.length >= MAX_ROUNDS) {
    return withinLimit
      ? { kind: 'switch-over', predictedBlackoutMs }
      : { kind: 'give-up', predictedBlackoutMs }
  }
  const [beforeLast, previous] = [rounds.at(-3), rounds.at(-2)]
  const stalled =
    beforeLast !== undefined &&
    previous !== undefined &&
    last.pages > previous.pages * PROGRESS_SHARE &&
    previous.pages > beforeLast.pages * PROGRESS_SHARE
  if (stalled && withinLimit) return { kind: 'switch-over', predictedBlackoutMs }
  return { kind: 'another-round' }
}
