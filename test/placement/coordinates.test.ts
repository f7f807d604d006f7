import { expect, test } from 'vitest'
import type { NodeCoordinate } from '../../src/domain/coordinate.ts'
import {
  distanceMs,
  isCoordinate,
  locate,
  movedCoordinate,
  shortlist,
  unknownCoordinate,
} from '../../src/placement/index.ts'
import { seededRandom } from '../bench/random.ts'
import { median } from '../bench/table.ts'

interface Place {
  x: number
  y: number
  heightMs: number
}

/** Forty nodes on a plane of 200 ms, behind access lines of up to 20 ms. */
function springs(random: () => number): { places: Place[]; coordinates: NodeCoordinate[] } {
  const places = Array.from({ length: 40 }, () => ({
    x: 200 * random(),
    y: 200 * random(),
    heightMs: 20 * random(),
  }))
  const coordinates = places.map(unknownCoordinate)
  for (let round = 0; round < 400; round++) {
    for (const own of places.keys()) {
      const peer = Math.floor(random() * places.length)
      if (peer === own) continue
      const rttMs = trueMs(places[own]!, places[peer]!)
      coordinates[own] = movedCoordinate(coordinates[own]!, coordinates[peer]!, rttMs, random)
    }
  }
  return { places, coordinates }
}

function trueMs(a: Place, b: Place): number {
  return Math.hypot(a.x - b.x, a.y - b.y) + a.heightMs + b.heightMs
}

test('round trips to few peers say how far all the others are', () => {
  const { places, coordinates } = springs(seededRandom(3))
  const errors = places.flatMap((a, i) =>
    places
      .slice(0, i)
      .map((b, j) => Math.abs(distanceMs(coordinates[i]!, coordinates[j]!) / trueMs(a, b) - 1)),
  )
  expect(median(errors)).toBeLessThan(0.1)
  for (const coordinate of coordinates) expect(isCoordinate(coordinate)).toBe(true)
})

test('something that only answers is located by who measured it, and its nearest node is on the shortlist', () => {
  const random = seededRandom(4)
  const { places, coordinates } = springs(random)
  let found = 0
  for (let trial = 0; trial < 20; trial++) {
    const client = { x: 200 * random(), y: 200 * random(), heightMs: 5 }
    const measured = places
      .slice(0, 8)
      .map((place, node) => ({ from: coordinates[node]!, rttMs: trueMs(place, client) }))
    const coordinate = locate(measured, random)
    const nodes = coordinates.map((at, node) => ({
      peerId: String(node),
      coordinate: at,
      holdsTemplate: false,
    }))
    const asked = shortlist(nodes, [{ weight: 1, coordinate }], new Map(), random)
    const nearest = places.toSorted((a, b) => trueMs(a, client) - trueMs(b, client))[0]!
    if (asked.includes(String(places.indexOf(nearest)))) found++
  }
  // Chance alone finds 5 of 20.
  expect(found).toBeGreaterThanOrEqual(14)
})

test('two round trips are not enough to locate anything', () => {
  const from = unknownCoordinate()
  expect(
    locate(
      [
        { from, rttMs: 10 },
        { from, rttMs: 20 },
      ],
      () => 0.5,
    ),
  ).toBeNull()
})

test('one lie moves a node that is sure of itself by little', () => {
  const random = seededRandom(5)
  const { coordinates } = springs(random)
  const own = coordinates[0]!
  const liar = { axesMs: [10_000, 10_000, 10_000], heightMs: 0, error: 1 }
  expect(distanceMs(own, movedCoordinate(own, liar, 1, random)) - 2 * own.heightMs).toBeLessThan(1500)
  expect(isCoordinate(movedCoordinate(own, liar, 1, random))).toBe(true)
})

test.each([Number.NaN, 0, -1, Number.POSITIVE_INFINITY, 10_001])(
  'a round trip of %d ms teaches nothing',
  (rttMs) => {
    const own = unknownCoordinate()
    expect(movedCoordinate(own, { ...own, axesMs: [1, 2, 3] }, rttMs, () => 0.5)).toBe(own)
  },
)

test.each<Partial<NodeCoordinate>>([
  { axesMs: [] },
  { axesMs: [1, 2] },
  { axesMs: [1, 2, 3, 4] },
  { axesMs: [1, 2, Number.NaN] },
  { axesMs: [1, 2, 10_001] },
  { heightMs: -1 },
  { heightMs: Number.POSITIVE_INFINITY },
  { error: -0.1 },
  { error: 1.6 },
  { error: Number.NaN },
])('a coordinate of a peer that can not be used: %o', (changes) => {
  expect(isCoordinate({ ...unknownCoordinate(), ...changes })).toBe(false)
})
