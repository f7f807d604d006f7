import { expect, test } from 'vitest'
import { Announcer, BEAT_MS, COALESCE_MS, difference, MIN_INTERVAL_MS } from '../../src/mesh/announcer.ts'
import { someFacts, templateNo, vmNo } from '../support/node-facts.ts'

/** Announces whenever it is due, from `fromMs` to `untilMs`; the times at which it did. */
function run(
  announcer: Announcer,
  {
    fromMs,
    untilMs,
    nodes,
    changes = [],
  }: Record<'fromMs' | 'untilMs' | 'nodes', number> & { changes?: number[] },
): number[] {
  const times: number[] = []
  const pending = changes.toSorted((a, b) => a - b)
  for (let nowMs = fromMs; ; ) {
    const changeAtMs = pending[0] ?? Number.POSITIVE_INFINITY
    const dueAtMs = Math.max(nowMs, announcer.dueAtMs)
    if (Math.min(changeAtMs, dueAtMs) > untilMs) return times
    if (changeAtMs <= dueAtMs) {
      nowMs = pending.shift()!
      announcer.changed(nowMs)
    } else {
      nowMs = dueAtMs
      announcer.begin(nowMs, nodes)
      times.push(nowMs)
    }
  }
}

test('the first announcement is due at once, the next after a beat', () => {
  const announcer = new Announcer({ random: () => 0.5 })
  expect(run(announcer, { fromMs: 0, untilMs: 3 * BEAT_MS, nodes: 2 })).toEqual([
    0,
    BEAT_MS,
    2 * BEAT_MS,
    3 * BEAT_MS,
  ])
})

test.for([
  [1, 15_000],
  [30, 15_000],
  [60, 30_000],
  [1000, 500_000],
])('with %d nodes a beat is %d ms, so that all of them say two things a second', ([nodes, beatMs]) => {
  const announcer = new Announcer({ random: () => 0.5 })
  expect(announcer.begin(0, nodes!)).toEqual({ validMs: 3.5 * beatMs! })
  expect(announcer.dueAtMs).toBe(beatMs)
})

test('beats drift apart, and none is so late that it would have expired after three', () => {
  for (const random of [0, 0.999]) {
    const announcer = new Announcer({ random: () => random })
    const { validMs } = announcer.begin(0, 10)
    expect(announcer.dueAtMs).toBeCloseTo(BEAT_MS * (random === 0 ? 0.9 : 1.1), -2)
    expect(3 * announcer.dueAtMs).toBeLessThan(validMs)
  }
})

test('changes that come together are one announcement', () => {
  const announcer = new Announcer({ random: () => 0.5 })
  const times = run(announcer, { fromMs: 0, untilMs: 10_000, nodes: 2, changes: [5000, 5010, 5040] })
  expect(times).toEqual([0, 5000 + COALESCE_MS])
})

test('whoever changes all the time announces at most twice a second, and the last change is told', () => {
  const announcer = new Announcer({ random: () => 0.5 })
  const changes = Array.from({ length: 500 }, (_, index) => 1000 + index * 10)
  const times = run(announcer, { fromMs: 0, untilMs: 9000, nodes: 2, changes })
  const gaps = times.slice(1).map((at, index) => at - times[index]!)
  expect(Math.min(...gaps)).toBeGreaterThanOrEqual(MIN_INTERVAL_MS)
  expect(times.length).toBeLessThanOrEqual(12)
  expect(times.at(-1)).toBeGreaterThanOrEqual(changes.at(-1)! + COALESCE_MS)
  expect(times.at(-1)).toBeLessThanOrEqual(changes.at(-1)! + MIN_INTERVAL_MS)
})

test('what changes while the facts are read is due again', () => {
  const announcer = new Announcer()
  announcer.begin(0, 2)
  announcer.changed(3)
  expect(announcer.dueAtMs).toBe(MIN_INTERVAL_MS)
})

test('what drifts all the time is told four times in a beat, however long that is', () => {
  const announcer = new Announcer()
  announcer.begin(0, 1000)
  announcer.drifted(5000, 1000)
  expect(announcer.dueAtMs).toBe(500_000 / 4)
  announcer.drifted(200_000, 1000)
  expect(announcer.dueAtMs).toBe(500_000 / 4)
})

const memory = { limitBytes: null, availableBytes: 1000, committedBytes: 0, reservedBytes: 0 }
test.for([
  ['the same', {}, {}, 'none'],
  [
    'the same templates in another order',
    { templates: [templateNo(1), templateNo(2)] },
    { templates: [templateNo(2), templateNo(1)] },
    'none',
  ],
  ['a place', {}, { coordinate: { axesMs: [9, 9, 9], heightMs: 9, error: 0.9 } }, 'none'],
  ['a load', { load: 0.1 }, { load: 3 }, 'none'],
  ['a template', {}, { templates: [templateNo(1)] }, 'changed'],
  ['a VM', { vms: [vmNo(1)] }, { vms: [vmNo(1), vmNo(2)] }, 'changed'],
  ['the state of a VM', { vms: [vmNo(1)] }, { vms: [{ ...vmNo(1), state: 'paused' }] }, 'changed'],
  ['a little memory', { memory }, { memory: { ...memory, availableBytes: 920 } }, 'none'],
  ['much memory', { memory }, { memory: { ...memory, availableBytes: 880 } }, 'drifted'],
  ['memory where there was none', { memory: { ...memory, availableBytes: 0 } }, { memory }, 'drifted'],
  ['a limit', { memory }, { memory: { ...memory, limitBytes: 5000 } }, 'drifted'],
  ['the QEMU', {}, { qemu: null }, 'changed'],
  ['mind about taking VMs', {}, { draining: true }, 'changed'],
] as const)('another %s is %s', ([, before, after, expected]) => {
  expect(difference(someFacts(before), someFacts(after))).toBe(expected)
})
