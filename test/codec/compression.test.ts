import { expect, test } from 'vitest'
import { CompressionChoice } from '../../src/codec/index.ts'

const MIB = 1024 ** 2
/** Mbit/s as bytes a millisecond. */
const link = (mbit: number) => (mbit * 1e6) / 8 / 1000

/** A machine on which level 1 takes so long for a MiB, and what comes of it; other levels relative to that. */
function settle(
  { ms, share }: { ms: number; share: number },
  linkBytesPerMs: number | null,
  slower: Record<number, number> = { 1: 1, 3: 1.6, 6: 5, 9: 8 },
): number {
  const compression = new CompressionChoice()
  for (let batch = 0; batch < 20; batch++) {
    const level = compression.choose(linkBytesPerMs)
    if (level > 0) compression.observe(MIB, MIB * share * (level > 1 ? 0.92 : 1), ms * slower[level]!)
  }
  return compression.level
}

test.each([
  ['text on a link that was never the bottleneck: as it begins', { ms: 2.5, share: 0.3 }, null, [1]],
  [
    'text at 1 Gbit/s: level 1 is through sooner than the link with plain pages',
    { ms: 2.5, share: 0.3 },
    link(1000),
    [1],
  ],
  [
    'text at 1 Gbit/s, on cores that have other work: bytes that are saved are worth some time',
    { ms: 12, share: 0.35 },
    link(1000),
    [1],
  ],
  ['text at 100 Mbit/s: there is time for more', { ms: 2.5, share: 0.3 }, link(100), [6, 9]],
  ['text on a link faster than zstd: as it is', { ms: 2.5, share: 0.3 }, link(8000), [0]],
  ['what hardly shrinks, on a fast link: as it is', { ms: 6, share: 0.95 }, link(2000), [0]],
  ['what hardly shrinks, on a slow link: even so', { ms: 6, share: 0.9 }, link(50), [1, 3, 6, 9]],
] as const)('%s', (_, cost, linkBytesPerMs, levels) => {
  expect(levels).toContain(settle(cost, linkBytesPerMs))
})

test('a link that turns out slower gets smaller pages, one that turns out faster is not kept waiting', () => {
  const compression = new CompressionChoice()
  compression.observe(MIB, MIB / 3, 2.5)
  expect(compression.choose(link(8000))).toBe(0)
  expect(compression.choose(link(50))).toBeGreaterThan(1)
})

test('levels that promise the same do not take turns', () => {
  const compression = new CompressionChoice()
  const seen = new Set<number>()
  for (let batch = 0; batch < 50; batch++) {
    const level = compression.choose(link(1000))
    seen.add(level)
    // Noise of a fifth.
    if (level > 0) compression.observe(MIB, MIB / 3, 2.5 * (0.9 + 0.2 * (batch % 2)))
  }
  expect(seen).toEqual(new Set([1]))
})
