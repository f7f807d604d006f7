import { expect, test } from 'vitest'
import { DEFAULT_MAX_BLACKOUT_MS } from '../../src/migration/protocol.ts'
import { decideAfterRound } from '../../src/migration/rounds.ts'

const rounds = (...list: [pages: number, ms: number][]) =>
  list.map(([pages, ms]) => ({ pages, ms, bytes: pages * 4096 }))

test.each([
  [
    'so few pages are stopped for after the first round',
    rounds([40, 60]),
    DEFAULT_MAX_BLACKOUT_MS,
    'switch-over',
  ],
  [
    'a large first round is followed by another',
    rounds([11_520, 400]),
    DEFAULT_MAX_BLACKOUT_MS,
    'another-round',
  ],
  [
    'a round that shrinks goes on',
    rounds([11_520, 400], [2_000, 70]),
    DEFAULT_MAX_BLACKOUT_MS,
    'another-round',
  ],
  ['few pages are enough', rounds([11_520, 400], [40, 2]), DEFAULT_MAX_BLACKOUT_MS, 'switch-over'],
  [
    'a fast round is enough, however many pages',
    rounds([11_520, 400], [300, 4]),
    DEFAULT_MAX_BLACKOUT_MS,
    'switch-over',
  ],
  [
    'rounds that stall end without a limit',
    rounds([9_000, 90], [8_000, 80], [7_900, 79]),
    DEFAULT_MAX_BLACKOUT_MS,
    'switch-over',
  ],
  [
    'rounds that stall go on under a limit they miss',
    rounds([9_000, 90], [8_000, 80], [7_900, 79]),
    50,
    'another-round',
  ],
  [
    'rounds that stall end under a limit they keep',
    rounds([9_000, 90], [8_000, 80], [7_900, 79]),
    200,
    'switch-over',
  ],
  ['nothing was sent yet', [], DEFAULT_MAX_BLACKOUT_MS, 'another-round'],
] as const)('%s', (_, list, maxBlackoutMs, decision) => {
  expect(decideAfterRound(list, { maxBlackoutMs, rttMs: 1 }).kind).toBe(decision)
})

test('a guest that writes as fast as the link carries is given up at its limit, and stopped without one', () => {
  const endless = rounds(...Array.from({ length: 30 }, () => [5_000, 100] as [number, number]))
  const limited = decideAfterRound(endless, { maxBlackoutMs: 100, rttMs: 1 })
  expect(limited).toEqual({ kind: 'give-up', predictedBlackoutMs: 122 })
  expect(decideAfterRound(endless, { maxBlackoutMs: DEFAULT_MAX_BLACKOUT_MS, rttMs: 1 }).kind).toBe(
    'switch-over',
  )
})

test('a long way to the destination counts twice', () => {
  const decision = decideAfterRound(rounds([10, 60], [10, 1]), { maxBlackoutMs: 100, rttMs: 50 })
  expect(decision.kind).toBe('another-round')
})
