import { expect, test } from 'vitest'
import type { PollAnswer } from './client.ts'
import { answersOfThePast, longestGapMs, nodesInTurn } from './judge.ts'

function answer(askedAtMs: number, answeredAtMs: number, count: number, node = 'a'): PollAnswer {
  return { askedAtMs, answeredAtMs, count, node }
}

test('the longest gap is between two answers, or after the last one', () => {
  const answers = [answer(0, 10, 1), answer(100, 110, 2), answer(200, 460, 3)]
  expect(longestGapMs(answers, 500)).toBe(350)
  expect(longestGapMs(answers, 1_000)).toBe(540)
})

test('a counter has gone back if it is below one that was known when it was asked for', () => {
  const overlapping = [answer(100, 150, 8), answer(90, 160, 7)]
  expect(answersOfThePast(overlapping)).toEqual([])
  const back = answer(200, 210, 7)
  expect(answersOfThePast([...overlapping, back])).toEqual([back])
})

test('a VM that came back is told of twice', () => {
  const nodes = ['a', 'a', 'b', 'a'].map((node, index) => answer(index, index, index, node))
  expect(nodesInTurn(nodes)).toEqual(['a', 'b', 'a'])
})
