import { expect, test } from 'vitest'
import { CHUNK_PAGES } from '../../src/domain/page.ts'
import { bitmapOf } from '../../src/template/chunk-pages.ts'
import { FetchPlan, listedChunk, type Share } from '../../src/template/fetch-plan.ts'
import { HASH_BYTES } from '../../src/template/hashing.ts'
import { SHORT_HASH_BYTES } from '../../src/wire/template-messages.ts'

const AT = { nowMs: 0, expectedMs: 100 }
/** A chunk whose pages have these keys, from page 0 on. */
const listed = (chunk: number, keys: number[]) =>
  listedChunk(chunk, { bitmap: bitmapOf(keys.keys()) }, keys, 'lister')
const wantedOf = (share: Share | null) =>
  share?.kind === 'pages' ? share.wanted.map(({ chunk, pages }) => [chunk.chunk, pages.length]) : share?.kind

function planOf(chunks: number): FetchPlan {
  const plan = new FetchPlan(Array(chunks).keys())
  const share = plan.take('lister', AT)!
  plan.settle(share, 'lister', 'answered')
  return plan
}

const distinct = (chunk: number, pages: number) =>
  Array.from({ length: pages }, (_, i) => chunk * 1000 + i + 1)

test('lists come first, then shares of at most 256 pages of whole chunks', () => {
  const plan = new FetchPlan([0, 1, 2])
  const lists = plan.take('a', AT)!
  expect(lists).toEqual({ kind: 'lists', chunks: [0, 1, 2] })
  expect(plan.take('b', AT)).toBeNull()
  plan.settle(lists, 'a', 'answered')
  for (const chunk of [0, 1, 2]) plan.list(listed(chunk, distinct(chunk, 100)))
  expect(wantedOf(plan.take('a', AT))).toEqual([
    [0, 100],
    [1, 100],
  ])
  expect(wantedOf(plan.take('b', AT))).toEqual([[2, 100]])
})

test('a repeated page travels once: within a chunk, a share, and what is on its way', () => {
  const plan = planOf(3)
  plan.list(listed(0, [7, 7, 8]))
  plan.list(listed(1, [8, 9]))
  const first = plan.take('a', AT)!
  expect(wantedOf(first)).toEqual([
    [0, 2],
    [1, 1],
  ])
  plan.list(listed(2, [9, 10]))
  expect(plan.take('b', { ...AT, expectedMs: 1000 })).toBeNull()
  plan.settle(first, 'a', 'failed')
  // By chunk: what the first two ask for completes the other one.
  expect(wantedOf(plan.take('b', AT))).toEqual([
    [0, 2],
    [2, 2],
  ])
})

test('nor is a page asked for that has come and is not on disk yet', () => {
  const plan = planOf(2)
  plan.list(listed(0, [7, 8]))
  const share = plan.take('a', AT)!
  plan.list(listed(1, [8, 9]))
  plan.settle(share, 'a', 'answered')
  expect(plan.take('b', AT)).toBeNull()
  const hashes = Buffer.alloc(CHUNK_PAGES * HASH_BYTES)
  hashes.writeUIntBE(8, HASH_BYTES, SHORT_HASH_BYTES)
  plan.complete(0, hashes)
  plan.assembled(share)
  expect(wantedOf(plan.take('b', AT))).toEqual([[1, 1]])
})

test('what failed is taken back, and no chunk is lost', () => {
  const plan = planOf(2)
  for (const chunk of [0, 1]) plan.list(listed(chunk, distinct(chunk, CHUNK_PAGES)))
  const share = plan.take('a', AT)!
  plan.settle(share, 'a', 'failed')
  expect(new Set([wantedOf(plan.take('b', AT)), wantedOf(plan.take('b', AT))].map(String))).toEqual(
    new Set(['0,256', '1,256']),
  )
})

test('at the end the slow are asked for as well, and who is second is not listened to', () => {
  const plan = planOf(1)
  plan.list(listed(0, distinct(0, 10)))
  const share = plan.take('slow', { nowMs: 0, expectedMs: 1000 })!
  expect(plan.take('slow', { nowMs: 10, expectedMs: 1000 })).toBeNull()
  expect(plan.take('third', { nowMs: 10, expectedMs: 995 })).toBeNull()
  expect(plan.take('fast', { nowMs: 10, expectedMs: 100 })).toBe(share)
  expect(plan.take('third', { nowMs: 10, expectedMs: 1 })).toBeNull()
  expect(plan.settle(share, 'fast', 'answered')).toBe(true)
  expect(plan.settle(share, 'slow', 'answered')).toBe(false)
})

test('who stalls loses its share, however slow the others are', () => {
  const plan = planOf(1)
  plan.list(listed(0, distinct(0, 10)))
  const share = plan.take('stalled', { nowMs: 0, expectedMs: 500 })!
  expect(plan.take('other', { nowMs: 2_900, expectedMs: 5_000 })).toBeNull()
  expect(plan.take('other', { nowMs: 3_100, expectedMs: 5_000 })).toBe(share)
})

test('what a liar listed is listed anew', () => {
  const plan = planOf(2)
  plan.list(listed(0, [1]))
  plan.list({ ...listed(1, [2]), lister: 'honest' })
  plan.distrust('lister')
  expect(plan.take('a', AT)).toEqual({ kind: 'lists', chunks: [0] })
  expect(wantedOf(plan.take('a', AT))).toEqual([[1, 1]])
})
