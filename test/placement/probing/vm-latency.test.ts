import { expect, test } from 'vitest'
import type { NodeCoordinate } from '../../../src/domain/coordinate.ts'
import { distanceMs } from '../../../src/placement/index.ts'
import { VmLatency } from '../../../src/placement/probing/vm-latency.ts'

const client = { host: '192.0.2.1', port: 443, weight: 1 }
const trips = (rttsMs: Record<string, number>) =>
  new Map(Object.entries(rttsMs).map(([node, ms]) => [node, [ms]] as const))
const at = (x: number, y: number): NodeCoordinate => ({ axesMs: [x, y, 0], heightMs: 0.1, error: 0.1 })

test('what is older than a minute says nothing of whom to ask, what is older than ten is gone', () => {
  const latency = new VmLatency([client])
  latency.add(0, 'here', trips({ here: 10, a: 5 }))
  latency.add(30_000, 'here', trips({ here: 11, b: 6 }))
  expect(latency.measuredMs()).toEqual(new Map(Object.entries({ here: 11, a: 5, b: 6 })))
  latency.add(80_000, 'here', trips({ here: 12 }))
  expect(latency.measuredMs()).toEqual(new Map(Object.entries({ here: 12, b: 6 })))
  latency.add(601_000, 'here', trips({ here: 13 }))
  expect(latency.samples.map(({ atMs }) => atMs)).toEqual([30_000, 80_000, 601_000])
})

test('rounds in which the client does not answer are no samples', () => {
  const latency = new VmLatency([client])
  latency.add(
    0,
    'here',
    new Map([
      ['here', [null]],
      ['a', [5]],
    ]),
  )
  expect(latency.samples).toEqual([])
})

test('a client is where three nodes with coordinates say', () => {
  const nodes: Record<string, NodeCoordinate> = { here: at(0, 0), a: at(60, 0), b: at(0, 60), c: at(60, 60) }
  const place = at(50, 50)
  const latency = new VmLatency([client])
  const rtts = Object.entries(nodes).map(([node, from]) => [node, distanceMs(from, place)] as const)
  latency.add(0, 'here', trips(Object.fromEntries(rtts)))
  const [placed] = latency.placed((node) => nodes[node] ?? null, Math.random)
  const guess = placed!.coordinate!
  // The nearest is found, and the order of the others.
  expect(distanceMs(guess, nodes.c!)).toBeLessThan(distanceMs(guess, nodes.a!))
  expect(distanceMs(guess, nodes.b!)).toBeLessThan(distanceMs(guess, nodes.here!))
  expect(latency.placed((node) => (node === 'a' ? nodes.a! : null), Math.random)).toEqual([
    { weight: 1, coordinate: null },
  ])
})

test('a VM whose user named a client three times keeps its samples', () => {
  const latency = new VmLatency([client, client, client])
  latency.add(0, 'here', new Map([['here', [10, 10, 10]]]))
  latency.serve([client, client, client])
  expect(latency.samples).toHaveLength(1)
})
