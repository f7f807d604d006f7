import { expect, test } from 'vitest'
import { latencySample, latestLatencyMs } from '../../src/placement/index.ts'

function latencies(
  weights: number[],
  roundTripsMs: Record<string, (number | null)[]>,
): Record<string, number> {
  const sample = latencySample(7, 'here', weights, new Map(Object.entries(roundTripsMs)))
  expect(sample.atMs).toBe(7)
  return Object.fromEntries(sample.latencyMs)
}

test('the mean of the clients, by weight', () => {
  expect(latencies([1, 3], { here: [100, 20], there: [10, 30] })).toEqual({ here: 40, there: 25 })
})

test('a node that lacks a far client does not look near', () => {
  expect(latencies([1, 1], { here: [300, 20], there: [null, 10], other: [200, 20] })).toEqual({
    here: 160,
    other: 110,
  })
})

test('a client that this node does not reach counts for nobody, whoever else reaches it', () => {
  expect(latencies([1, 1], { here: [null, 20], there: [5, 10], other: [null, 10] })).toEqual({
    here: 20,
    there: 10,
    other: 10,
  })
})

test('without probes from here nothing can be compared', () => {
  expect(latencies([1], { there: [5] })).toEqual({})
  expect(latencies([1], { here: [null], there: [5] })).toEqual({})
  expect(latencies([], { here: [], there: [] })).toEqual({})
})

test('a node that answered for fewer clients than there are is left out', () => {
  expect(latencies([1, 1], { here: [10, 20], there: [5] })).toEqual({ here: 15 })
})

test('the latest of each node, from whichever sample has it', () => {
  const samples = [
    {
      atMs: 1,
      latencyMs: new Map([
        ['a', 1],
        ['b', 2],
      ]),
    },
    { atMs: 2, latencyMs: new Map([['a', 3]]) },
  ]
  expect(latestLatencyMs(samples)).toEqual(
    new Map([
      ['a', 3],
      ['b', 2],
    ]),
  )
})
