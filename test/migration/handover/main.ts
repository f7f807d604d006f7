/** `npm run explore`: the exploration of the hand-over in wider bounds than a test has time for. */
import { parseArgs } from 'node:util'
import { explore, unsettled } from './explore.ts'
import { INTACT } from './world.ts'

const { values } = parseArgs({
  options: {
    moves: { type: 'string', default: '2' },
    arrivals: { type: 'string', default: '2' },
    mishaps: { type: 'string', default: '2' },
  },
})
const bounds = {
  moves: Number(values.moves),
  arrivals: Number(values.arrivals),
  mishaps: Number(values.mishaps),
}
const startedMs = performance.now()
const settled = new Set<string>()
const { worlds, wrong } = explore(INTACT, bounds, (world) => unsettled(world, settled))
console.log(
  JSON.stringify({ ...bounds, worlds, seconds: Math.round((performance.now() - startedMs) / 1000), wrong }),
)
process.exitCode = wrong === null ? 0 : 1
