/** A slice of what `npm run fuzz` does at length: one seed that is always the same, one that never is. */
import { randomInt } from 'node:crypto'
import { expect, test } from 'vitest'
import { Dice } from './dice.ts'
import { hostileMessage } from './generate.ts'
import { fuzzTarget } from './run.ts'
import { TARGETS } from './targets/index.ts'

const FIXED_SEED = 1
const INPUTS = { fixed: 40, random: 20 }

const randomSeed = randomInt(2 ** 31)
console.log(`random seed ${randomSeed}`)

test.each(TARGETS)('$name stands malformed input', async (type) => {
  const fixed = await fuzzTarget(type, { seed: FIXED_SEED, inputs: Math.ceil(INPUTS.fixed * type.weight) })
  await fuzzTarget(type, { seed: randomSeed, inputs: Math.ceil(INPUTS.random * type.weight) })
  // Both what is refused at the door and what gets past it: else nothing was tested.
  expect(fixed.outcomes.size).toBeGreaterThan(1)
})

test('an input depends on its seed, target and index alone', () => {
  const input = (seed: number, index: number) =>
    hostileMessage('drover.migration.Control', {}, Dice.of(seed, 'any', index)).toString('hex')
  expect(input(7, 3)).toBe(input(7, 3))
  expect(new Set([input(7, 3), input(7, 4), input(8, 3)]).size).toBe(3)
})
