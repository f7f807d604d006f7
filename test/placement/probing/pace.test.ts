import { expect, test } from 'vitest'
import type { LatencySample } from '../../../src/placement/index.ts'
import { isSteady, roundDelayMs } from '../../../src/placement/probing/pace.ts'

const samples = (...latencies: Record<string, number>[]): LatencySample[] =>
  latencies.map((latency, index) => ({ atMs: index * 3000, latencyMs: new Map(Object.entries(latency)) }))
const repeat = (count: number, latency: Record<string, number>) => Array<typeof latency>(count).fill(latency)

test.each<[string, LatencySample[], boolean]>([
  ['none', [], false],
  ['seven that agree', samples(...repeat(7, { here: 10, a: 50 })), false],
  ['eight that agree on this node', samples(...repeat(8, { here: 10, a: 50 })), true],
  ['eight that agree on another', samples(...repeat(8, { here: 50, a: 10, b: 20 })), true],
  ['one in which another node leads', samples(...repeat(7, { here: 50, a: 60 }), { here: 50, a: 10 }), false],
  ['noise', samples(...repeat(4, { here: 50, a: 49 }), ...repeat(4, { here: 49, a: 50 })), true],
  ['a node that was asked by chance', samples(...repeat(7, { here: 10 }), { here: 10, b: 90 }), true],
])('of %s: steady is %s', (_, given, steady) => {
  expect(isSteady(given, 'here')).toBe(steady)
})

test.each([
  [false, 1, 3_000],
  [true, 1, 8_000],
  [false, 16, 8_000],
  [false, 10, 5_000],
])('steady %s, %d targets: the next round comes %d ms later, or a bit more', (isSteady, targets, ms) => {
  expect(roundDelayMs({ isSteady, targets, random: () => 0 })).toBe(ms)
  expect(roundDelayMs({ isSteady, targets, random: () => 0.99 })).toBeLessThan(ms * 1.15)
})
