import { expect, test } from 'vitest'
import type { NodeCoordinate } from '../../../src/domain/coordinate.ts'
import { distanceMs } from '../../../src/placement/index.ts'
import { OwnCoordinate } from '../../../src/placement/probing/index.ts'

const never = new AbortController().signal

/** The same numbers on each run: mulberry32. */
function dice(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

test('nodes that ping each other, and announce where they are every few rounds, find their places', async () => {
  const random = dice(1)
  const places = Array.from({ length: 20 }, () => [random() * 100, random() * 100] as const)
  const rttMs = (a: number, b: number) =>
    4 + Math.hypot(places[a]![0] - places[b]![0], places[a]![1] - places[b]![1])
  const nodes = places.map(() => new OwnCoordinate({ random }))
  let announced = nodes.map(({ now }) => now)
  for (let round = 0; round < 60; round++) {
    if (round % 5 === 0) announced = nodes.map(({ now }) => now)
    for (const [index, node] of nodes.entries()) {
      const peers = () =>
        announced.flatMap((coordinate, peer) =>
          peer === index ? [] : [{ peerId: String(peer), coordinate }],
        )
      await node.round({ peers, ping: async (peer) => rttMs(index, Number(peer)) }, never)
    }
  }
  const errors = nodes.flatMap((node, a) =>
    nodes.flatMap((other, b) =>
      a < b ? [Math.abs(distanceMs(node.now, other.now) - rttMs(a, b)) / rttMs(a, b)] : [],
    ),
  )
  const median = errors.toSorted((x, y) => x - y)[Math.floor(errors.length / 2)]!
  expect(median).toBeLessThan(0.15)
})

test('a peer that does not answer, or whose coordinate is none, teaches nothing', async () => {
  const node = new OwnCoordinate()
  const before = node.now
  const silent = { peerId: 'a', coordinate: node.now }
  const liar = {
    peerId: 'b',
    coordinate: { axesMs: [Infinity, 0, 0], heightMs: 0, error: 0 } as NodeCoordinate,
  }
  const pinged: string[] = []
  const ping = async (peerId: string) => {
    pinged.push(peerId)
    throw new Error('no answer')
  }
  await node.round({ peers: () => [silent, liar], ping }, never)
  expect(node.now).toEqual(before)
  expect(pinged).toEqual(['a'])
})

test('however many peers there are, four are pinged in a round', async () => {
  const node = new OwnCoordinate()
  const peers = Array.from({ length: 100 }, (_, index) => ({ peerId: String(index), coordinate: node.now }))
  let pings = 0
  await node.round({ peers: () => peers, ping: async () => ++pings }, never)
  expect(pings).toBe(4)
})

test('it pings by itself until it is stopped', async () => {
  const node = new OwnCoordinate()
  let pings = 0
  const peer = { peerId: 'a', coordinate: node.now }
  node.start({ peers: () => [peer], ping: async () => ++pings })
  await expect.poll(() => pings, { timeout: 5_000 }).toBeGreaterThan(0)
  await node.stop()
})
