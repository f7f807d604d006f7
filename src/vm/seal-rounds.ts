/** Looks at a running guest before it is stopped in any case: it writes as fast as it can be read. */
const MAX_ROUNDS = 10
/** So few pages cost less of the blackout than stopping the guest does: 64 pages are read in 0.1 ms. */
const FEW_PAGES = 64
/** A round that isn't smaller than this share of the one before it gained nothing. */
const PROGRESS_SHARE = 0.75

/**
 * Whether to stop the guest, from how many pages each look at it found changed.
 * Unlike a move nothing waits for a network: a round is as long as it takes to
 * copy what the one before it left, so they shrink or never will.
 */
export function isTimeToStop(rounds: readonly number[]): boolean {
  const [beforeLast, last] = [rounds.at(-2), rounds.at(-1)]
  if (last === undefined) return false
  if (last <= FEW_PAGES || rounds.length >= MAX_ROUNDS) return true
  return beforeLast !== undefined && last > beforeLast * PROGRESS_SHARE
}
