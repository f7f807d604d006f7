import { expect, test } from 'vitest'
import { isTimeToStop } from '../../src/vm/seal-rounds.ts'

test.each([
  ['nothing was looked at yet', [], false],
  ['few pages at once', [40], true],
  ['a large first round', [11_520], false],
  ['rounds that shrink', [11_520, 2_000, 700], false],
  ['few pages are left', [11_520, 2_000, 60], true],
  ['rounds that shrink no more', [11_520, 2_000, 1_900], true],
  ['rounds that grow', [200, 400], true],
  ['too many rounds', Array.from({ length: 10 }, (_, round) => 100_000 / 2 ** round), true],
] as const)('%s', (_, rounds, expected) => {
  expect(isTimeToStop(rounds)).toBe(expected)
})
