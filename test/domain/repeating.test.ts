import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { Repeating } from '../../src/domain/repeating.ts'

test('pauses before each step, and does none after it was stopped', async () => {
  const repeating = new Repeating()
  const done: string[] = []
  repeating.start(
    () => {
      done.push('pause')
      return 1
    },
    async () => void done.push('step'),
  )
  expect(done).toEqual(['pause'])
  await expect.poll(() => done.length).toBeGreaterThanOrEqual(4)
  await repeating.stop()
  expect(done.slice(0, 4)).toEqual(['pause', 'step', 'pause', 'step'])
  const atStop = done.length
  await sleep(20)
  expect(done).toHaveLength(atStop)
})

test('a stop calls the step under way off, and waits for its end', async () => {
  const repeating = new Repeating()
  const ends: string[] = []
  repeating.start(
    () => 0,
    async (signal) => {
      await sleep(60_000, undefined, { signal }).catch(() => {})
      ends.push('step')
      signal.throwIfAborted()
    },
  )
  await sleep(20)
  await repeating.stop()
  expect(ends).toEqual(['step'])
})

test('stops that was never started', async () => {
  await new Repeating().stop()
})
