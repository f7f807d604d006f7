import { expect, test } from 'vitest'
import { TokenBucket, TokenBuckets } from '../../src/mesh/token-bucket.ts'

const RATE = { burst: 3, perSecond: 2 }

function taken(bucket: TokenBucket, nowMs: number): number {
  let count = 0
  while (bucket.take(nowMs)) count++
  return count
}

test('a burst at once, then so many a second, and never more than a burst', () => {
  const bucket = new TokenBucket(RATE, 0)
  expect(taken(bucket, 0)).toBe(3)
  expect(taken(bucket, 499)).toBe(0)
  expect(taken(bucket, 1000)).toBe(2)
  expect(taken(bucket, 60_000)).toBe(3)
})

test('asking takes nothing, and a clock that goes back gives nothing', () => {
  const bucket = new TokenBucket({ burst: 1, perSecond: 1 }, 1000)
  expect(bucket.hasOne(1000)).toBe(true)
  expect(taken(bucket, 1000)).toBe(1)
  expect(bucket.hasOne(0)).toBe(false)
})

test('each has its own; whoever took longest ago is forgotten first', () => {
  const buckets = new TokenBuckets({ burst: 1, perSecond: 0 }, { maxBuckets: 2 })
  expect([buckets.take('a', 0), buckets.take('b', 0), buckets.take('a', 0)]).toEqual([true, true, false])
  expect(buckets.take('c', 0)).toBe(true)
  expect(buckets.existing('b')).toBeUndefined()
  expect(buckets.take('a', 0)).toBe(false)
})
