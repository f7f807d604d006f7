/**
 * `npm run fuzz -- [--inputs N] [--seed S] [--target NAME] [--at INDEX]`:
 * malformed input through the real handlers. Exit code 1 at the first failure.
 */
import { randomInt } from 'node:crypto'
import { parseArgs } from 'node:util'
import { fuzzTarget, type TargetReport } from './run.ts'
import { TARGETS } from './targets/index.ts'

const DEFAULT_INPUTS = 100_000
const MIB = 1024 ** 2

const { values } = parseArgs({
  options: {
    inputs: { type: 'string' },
    seed: { type: 'string' },
    target: { type: 'string' },
    at: { type: 'string' },
  },
})
const seed = values.seed === undefined ? randomInt(2 ** 31) : Number(values.seed)
const chosen = TARGETS.filter(({ name }) => values.target === undefined || name === values.target)
if (chosen.length === 0) {
  console.error(`no target ${values.target}: one of ${TARGETS.map(({ name }) => name).join(', ')}`)
  process.exit(1)
}
const inputs = values.at === undefined ? Number(values.inputs ?? DEFAULT_INPUTS) : 1
const weights = chosen.reduce((sum, { weight }) => sum + weight, 0)

console.log(`seed ${seed}`)
for (const type of chosen) {
  const share = values.at === undefined ? Math.ceil((inputs * type.weight) / weights) : 1
  try {
    print(await fuzzTarget(type, { seed, inputs: share, from: Number(values.at ?? 0) }))
  } catch (error) {
    console.error(error)
    process.exit(1)
  }
}

function print({ target, inputs, outcomes, inputsPerS, bytesBefore, bytesAfter }: TargetReport): void {
  const memory = `${(bytesBefore / MIB).toFixed(1)} -> ${(bytesAfter / MIB).toFixed(1)} MiB`
  console.log(`${target}: ${inputs} inputs, ${Math.round(inputsPerS)}/s, ${memory}`)
  const byCount = [...outcomes].sort(([, a], [, b]) => b - a)
  console.log(`  ${byCount.map(([code, count]) => `${code} ${count}`).join(', ')}`)
}
