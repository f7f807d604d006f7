/** The most telling ones of `npm run faults`: real agents that die, lose their link or their disk in the middle of a hand-over. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { seededRandom } from '../bench/random.ts'
import { caseName } from '../faults/fault-case.ts'
import { MATRIX_MEMORY_LIMIT_BYTES, matrix } from '../faults/matrix.ts'
import { Theatre } from '../faults/theatre.ts'

const TELLING = [
  'source agent killed at source:grant-sent',
  'destination agent killed at destination:grant-journaled',
  'destination agent killed at destination:ready-sent',
  'destination QEMU killed at destination:loaded',
  'byte flipped to the destination at source:round-applied',
  'memory short at the destination at destination:launched',
  'disk full at the source at source:finish-sent',
]

let theatre: Theatre | string

beforeAll(async () => {
  theatre = await Theatre.open({ nodes: 2, memoryLimitBytes: MATRIX_MEMORY_LIMIT_BYTES }, seededRandom(1))
})
afterAll(async () => {
  if (typeof theatre === 'object') await theatre[Symbol.asyncDispose]()
})

const cases = matrix()

for (const name of TELLING) {
  test(`${name}: one guest, whole, owned by one node`, async ({ skip }) => {
    if (typeof theatre === 'string') return skip(`faults need root: ${theatre}`)
    const end = await theatre.run(cases.find((faultCase) => caseName(faultCase) === name)!)
    console.log(`${end.name}: ${end.outcome}, at the ${end.owner}, ${Math.round(end.ms)} ms`)
    expect(end.findings, theatre.lastLogs).toEqual([])
  })
}
