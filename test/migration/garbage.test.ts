import { afterEach, expect, test, vi } from 'vitest'
import { IdleGarbage } from '../../src/migration/garbage.ts'

const MIB = 1024 ** 2
const own = globalThis.gc

afterEach(() => {
  vi.restoreAllMocks()
  vi.useRealTimers()
  globalThis.gc = own
})

/** Collections of an agent of some size, after two pieces of work that ended 100 ms apart. */
function collections(residentBytes: number, isMoving = false): unknown[][] {
  vi.useFakeTimers()
  vi.spyOn(process.memoryUsage, 'rss').mockReturnValue(residentBytes)
  const gc = vi.fn()
  globalThis.gc = gc as unknown as NodeJS.GCFunction
  const garbage = new IdleGarbage(() => isMoving)
  garbage.workEnded()
  vi.advanceTimersByTime(100)
  garbage.workEnded()
  vi.advanceTimersByTime(10_000)
  return gc.mock.calls
}

test('what work has left is collected once it has all ended', () => {
  expect(collections(190 * MIB)).toEqual([[]])
})

test('an agent that has grown gives back what V8 keeps', () => {
  const lastResort = { type: 'major', execution: 'sync', flavor: 'last-resort' }
  expect(collections(300 * MIB)).toEqual([[lastResort]])
})

test('nothing is collected while a move goes on', () => {
  expect(collections(300 * MIB, true)).toEqual([])
})
