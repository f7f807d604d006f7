import { expect, test } from 'vitest'
import { LinkRates } from '../../src/placement/index.ts'

const MIB = 1024 ** 2
function report(
  to: string,
  rounds: [bytes: number, ms: number][],
  template: [bytes: number, ms: number] = [0, 0],
) {
  return {
    to,
    rounds: rounds.map(([bytes, ms]) => ({ pages: 1, bytes, ms, throttlePercent: 0 })),
    bytes: { wire: 0, template: template[0], pages: 0, deviceState: 0, stockEquivalent: 0 },
    durationsMs: { total: 0, negotiate: 0, template: template[1], rounds: 0, blackout: 0 },
  }
}

test('nothing is known of a link that carried nothing', () => {
  expect(new LinkRates().bytesPerSecond('a')).toBeNull()
})

test('a link carries what it carried, the latest moves counting more', () => {
  const rates = new LinkRates()
  rates.moved(
    report('a', [
      [8 * MIB, 900],
      [2 * MIB, 100],
    ]),
  )
  expect(rates.bytesPerSecond('a')).toBe(10 * MIB)
  rates.moved(report('a', [[20 * MIB, 1000]]))
  expect(rates.bytesPerSecond('a')).toBe(13 * MIB)
  for (let moves = 0; moves < 20; moves++) rates.moved(report('a', [[20 * MIB, 1000]]))
  expect(rates.bytesPerSecond('a')).toBeGreaterThan(19.9 * MIB)
  expect(rates.bytesPerSecond('b')).toBeNull()
})

test('small moves say nothing, unless a template went with them', () => {
  const rates = new LinkRates()
  rates.moved(report('a', [[MIB / 2, 1]]))
  expect(rates.bytesPerSecond('a')).toBeNull()
  rates.moved(report('a', [[MIB / 2, 1]], [100 * MIB, 10_000]))
  expect(rates.bytesPerSecond('a')).toBe(10 * MIB)
})

test('of very many peers, those used last are remembered', () => {
  const rates = new LinkRates()
  for (let peer = 0; peer <= 1024; peer++) rates.moved(report(String(peer), [[2 * MIB, 1000]]))
  expect(rates.bytesPerSecond('0')).toBeNull()
  expect(rates.bytesPerSecond('1024')).toBe(2 * MIB)
})
