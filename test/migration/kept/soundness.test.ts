import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { areSoundInTime } from '../../../src/migration/kept/soundness.ts'

const never = new AbortController().signal
const steps =
  (...answers: (boolean | null)[]) =>
  async () =>
    answers.shift() ?? null

test('pages are sound, or not, when the last step says so', async () => {
  const options = { timeoutMs: 10_000, signal: never }
  expect(await areSoundInTime(steps(null, null, true), options)).toBe(true)
  expect(await areSoundInTime(steps(null, false), options)).toBe(false)
})

test('pages that a slow disk gives too late are as good as none', async () => {
  const step = () => sleep(10, null)
  expect(await areSoundInTime(step, { timeoutMs: 50, signal: never })).toBe(false)
})

test('nobody looks on for a move that has ended', async () => {
  const ended = new AbortController()
  let looked = 0
  const step = async () => {
    if (++looked === 3) ended.abort(new Error('the source is gone'))
    return null
  }
  const looking = areSoundInTime(step, { timeoutMs: 10_000, signal: ended.signal })
  await expect(looking).rejects.toThrow('the source is gone')
  expect(looked).toBe(3)
})
