import { randomBytes } from 'node:crypto'
import { expect, test } from 'vitest'
import { PAGE_BYTES } from '../../src/domain/page.ts'
import { startBareMemory } from '../support/bare-memory.ts'
import { limitOf, unavoidable } from './limit.ts'

const PAGES = 64

test('a page counts by its difference to the template or as it is, whichever is smaller, and not at all when equal', async () => {
  await using bare = await startBareMemory(PAGES)
  const clone = { pid: bare.pid, ramPath: bare.ramPath, memoryBytes: PAGES * PAGE_BYTES }
  expect(await unavoidable(clone)).toMatchObject({ privatePages: 0, changedPages: 0, changedZstdBytes: 0 })

  const ofTemplate = (page: number) => bare.template.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES)
  await bare.write(1, ofTemplate(1))
  const nearlyTemplate = Buffer.from(ofTemplate(2))
  nearlyTemplate[100]! ^= 1
  await bare.write(2, nearlyTemplate)
  await bare.write(3, Buffer.alloc(PAGE_BYTES, 'text '))
  await bare.write(4, randomBytes(PAGE_BYTES))

  const needs = await unavoidable(clone)
  expect(needs).toMatchObject({ privatePages: 4, changedPages: 3 })
  // Random bytes are their own limit; the two others are next to nothing.
  expect(needs.changedZstdBytes).toBeGreaterThan(PAGE_BYTES)
  expect(needs.changedZstdBytes).toBeLessThan(PAGE_BYTES + 200)
  // As they are, three of the four are random.
  expect(needs.privateZstdBytes).toBeGreaterThan(3 * PAGE_BYTES)
})

test('the limit is bytes over the rate and three round trips', () => {
  expect(limitOf(12_500_000, { bitsPerSecond: 100e6, roundTripMs: 20 })).toEqual({
    bytes: 12_500_000,
    ms: 1060,
  })
  expect(limitOf(12_500_000, { bitsPerSecond: null, roundTripMs: 0 }).ms).toBe(0)
})
