import { expect, test } from 'vitest'
import {
  agedCoolDown,
  BASE_COOL_DOWN_MS,
  type CoolDown,
  coolDownAfterMove,
  MAX_COOL_DOWN_MS,
  NO_COOL_DOWN,
  receivedCoolDown,
} from '../../src/placement/index.ts'

/** Peer ids as they look. */
const [A, B, C] = ['A', 'B', 'C'].map((letter) => `12D3KooW${letter.repeat(44)}`) as [string, string, string]

test('after a move a VM stays for the base, and may move again once that is over', () => {
  const moved = coolDownAfterMove(NO_COOL_DOWN, A, B)
  expect(moved).toEqual({ remainingMs: 60_000, lengthMs: 60_000, previousNode: A, sinceMoveMs: 0 })
  expect(agedCoolDown(moved, 45_000)).toMatchObject({
    remainingMs: 15_000,
    lengthMs: 60_000,
    sinceMoveMs: 45_000,
  })
  expect(agedCoolDown(moved, 90_000).remainingMs).toBe(0)
  // A clock that was set back makes nothing longer.
  expect(agedCoolDown(moved, -5_000)).toEqual(moved)
})

test('going back doubles it each time, up to an hour; going on does not', () => {
  let coolDown = coolDownAfterMove(NO_COOL_DOWN, A, B)
  const lengthsMs = []
  for (let back = 0; back < 8; back++) {
    const [from, to] = back % 2 === 0 ? [B, A] : [A, B]
    coolDown = coolDownAfterMove(coolDown, from, to)
    lengthsMs.push(coolDown.lengthMs / BASE_COOL_DOWN_MS)
  }
  expect(lengthsMs).toEqual([2, 4, 8, 16, 32, 60, 60, 60])
  expect(coolDownAfterMove(coolDownAfterMove(NO_COOL_DOWN, A, B), B, C).lengthMs).toBe(BASE_COOL_DOWN_MS)
})

test('a long stay is rewarded: half of the length is forgiven every ten minutes, never less than the base', () => {
  const flapped: CoolDown = {
    remainingMs: 0,
    lengthMs: 16 * BASE_COOL_DOWN_MS,
    previousNode: A,
    sinceMoveMs: 0,
  }
  const after = (elapsedMs: number, to: string) =>
    coolDownAfterMove(agedCoolDown(flapped, elapsedMs), B, to).lengthMs
  expect(after(600_000, C)).toBe(8 * BASE_COOL_DOWN_MS)
  expect(after(1_200_000, C)).toBe(4 * BASE_COOL_DOWN_MS)
  expect(after(1_200_000, A)).toBe(8 * BASE_COOL_DOWN_MS)
  expect(after(86_400_000, A)).toBe(BASE_COOL_DOWN_MS)
})

const honest: CoolDown = { remainingMs: 30_000, lengthMs: 60_000, previousNode: A, sinceMoveMs: 30_000 }

test('what came with a VM is taken, within an hour', () => {
  expect(receivedCoolDown(honest)).toEqual(honest)
  expect(receivedCoolDown({ ...honest, remainingMs: 1e15, lengthMs: 1e15 })).toMatchObject({
    remainingMs: MAX_COOL_DOWN_MS,
    lengthMs: MAX_COOL_DOWN_MS,
  })
})

test.each<Partial<CoolDown>>([
  { remainingMs: Number.NaN },
  { remainingMs: -1 },
  { lengthMs: Number.POSITIVE_INFINITY },
  { sinceMoveMs: -1 },
  { sinceMoveMs: Number.POSITIVE_INFINITY },
  { previousNode: null },
  { previousNode: '../x' },
  { previousNode: '' },
])('nonsense from a peer counts as a VM that never moved: %o', (changes) => {
  expect(receivedCoolDown({ ...honest, ...changes })).toEqual(NO_COOL_DOWN)
})
