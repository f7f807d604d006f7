import { expect, test } from 'vitest'
import { coolDownAt, NO_COOL_DOWN } from '../../src/domain/cool-down.ts'

const kept = { remainingMs: 60_000, lengthMs: 120_000, previousNode: 'a', sinceMoveMs: 60_000, atMs: 1000 }

test.each([
  [1000, 60_000, 60_000],
  [31_000, 30_000, 90_000],
  [91_000, 0, 150_000],
  // The clock was set back.
  [0, 60_000, 60_000],
])('at %d ms, %d ms are left', (nowMs, remainingMs, sinceMoveMs) => {
  expect(coolDownAt(kept, nowMs)).toEqual({ remainingMs, lengthMs: 120_000, previousNode: 'a', sinceMoveMs })
})

test('a VM that never moved stays one', () => {
  expect(coolDownAt({ ...NO_COOL_DOWN, atMs: 0 }, 10 ** 9)).toEqual(NO_COOL_DOWN)
})
