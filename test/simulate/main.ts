/**
 * `npm run simulate`: where the rebalancer's own code puts VMs while measured
 * latencies change below them, beside never moving, always moving to the best
 * node, itself without the template in its sums, and the best plan that knows the future.
 *
 *     npm run simulate -- [--rtt FILE] [--slices COUNT|FIRST-LAST] [--nodes N] [--vms-per-node N]
 *                         [--stored-templates N] [--seed S] [--plot FILE.svg] [--json]
 *
 * FILE (or DROVER_RTT) has measured round trips as test/bench/round-trips.ts reads
 * them; without one they are drawn. What stands still is in scene.ts, the rules
 * for all in world.ts, the unit in ledger.ts.
 */
import { mkdir, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { parseArgs } from 'node:util'
import { seededRandom } from '../bench/random.ts'
import { drawnRoundTrips, readRoundTrips } from '../bench/round-trips.ts'
import { textTable } from '../bench/table.ts'
import { type Comparison, compare } from './compare.ts'
import type { Totals } from './ledger.ts'
import { plotSvg } from './plot.ts'
import { makeScene, STORED_TEMPLATES, TEMPLATES } from './scene.ts'

const USAGE = `usage: npm run simulate -- [--rtt FILE] [--slices COUNT|FIRST-LAST] [--nodes 2..4096] [--vms-per-node 1..64]
                           [--stored-templates 1..${TEMPLATES}] [--seed S] [--plot FILE.svg] [--json]
FILE: measured round trips, such as seattle-400x99x99-rtt-ms.f32le.gz of NetLatency-Data: a gzip of float32 ms,
      little-endian, [slice][from][to], with the sizes in its name; DROVER_RTT names it as well.
      Without one they are drawn, log-normal like PlanetLab's`

/** As many as Seattle's hosts; a pair's round trip lasts 35 minutes. */
const DRAWN = { hosts: 99, slices: 100, dwellSlices: 7 }

const { values } = parseArgs({
  options: {
    rtt: { type: 'string' },
    slices: { type: 'string' },
    nodes: { type: 'string', default: '33' },
    'vms-per-node': { type: 'string', default: '3' },
    'stored-templates': { type: 'string', default: String(STORED_TEMPLATES) },
    seed: { type: 'string', default: '1' },
    plot: { type: 'string' },
    json: { type: 'boolean', default: false },
  },
})
const rtt = values.rtt ?? process.env.DROVER_RTT
const [nodes, vmsPerNode, seed] = [Number(values.nodes), Number(values['vms-per-node']), Number(values.seed)]
const storedTemplates = Number(values['stored-templates'])
const inRange =
  isBetween(storedTemplates, 1, TEMPLATES) &&
  isBetween(nodes, 2, 4096) &&
  isBetween(vmsPerNode, 1, 64) &&
  isBetween(seed, 0, Number.MAX_SAFE_INTEGER)
if (!inRange) {
  console.error(USAGE)
  process.exit(2)
}

const roundTrips = rtt === undefined ? drawnRoundTrips(DRAWN, seededRandom(seed)) : await readRoundTrips(rtt)
const slices = sliceRange(values.slices ?? String(roundTrips.slices), roundTrips.slices)
if (slices.length === 0) {
  console.error(`${USAGE}\n--slices: ${rtt ?? 'what is drawn'} has 0-${roundTrips.slices - 1}`)
  process.exit(2)
}
const scene = makeScene({
  roundTrips,
  slices,
  nodes,
  vmsPerNode,
  storedTemplates,
  random: seededRandom(seed),
})
const comparison = compare(scene, seed)
const policies = policiesOf(comparison)
const facts = {
  rtt: rtt ?? null,
  firstSlice: slices[0],
  slices: slices.length,
  nodes,
  vms: scene.vms.length,
  storedTemplates,
  seed,
}
if (values.plot !== undefined) {
  await mkdir(dirname(values.plot), { recursive: true })
  const { firstSlice, vms } = facts
  const title = `${vms} VMs, ${nodes} nodes, slices ${firstSlice}-${slices.at(-1)}, seed ${seed}`
  await writeFile(values.plot, plotSvg(title, policies))
}
console.log(values.json ? JSON.stringify({ ...facts, ...comparison }) : tables(comparison))

function tables(result: Comparison): string {
  const { mean, p99, max } = result.roundCpuMs
  const least = result.optimum?.totalMs
  const rows = policies.map((totals) => [
    totals.policy,
    totals.totalMs.toFixed(1),
    least === undefined ? '' : (totals.totalMs / least).toFixed(3),
    totals.meanLatencyMs.toFixed(1),
    totals.p95LatencyMs.toFixed(0),
    totals.movesPerVmHour.toFixed(2),
    gibibytes(totals.sentBytes),
    gibibytes(totals.avoidedBytes),
    String(totals.returns),
    String(totals.returnsInCoolDown),
  ])
  const header = [
    '',
    'total ms',
    'of optimum',
    'mean ms',
    'p95 ms',
    'moves/VM h',
    'sent',
    'avoided',
    'returns',
    'in cool-down',
  ]
  return [
    textTable(header, rows),
    '',
    `a node's round of decisions: ${mean.toFixed(3)} ms of CPU, p99 ${p99.toFixed(3)} ms, at most ${max.toFixed(1)} ms`,
  ].join('\n')
}

function policiesOf(result: Comparison): Totals[] {
  const { never, alwaysBest, withoutTemplateTerm, drover, optimum, lowerBound } = result
  const all = [never, alwaysBest, withoutTemplateTerm, drover, optimum, lowerBound]
  return all.filter((totals) => totals !== null)
}

/** `200`: the first 200; `200-399`: those, both included. Empty when the data hasn't got them. */
function sliceRange(range: string, available: number): number[] {
  const [, first = '0', last] = /^(?:(\d+)-(\d+))$/.exec(range) ?? [undefined, '0', String(Number(range) - 1)]
  const count = Number(last) - Number(first) + 1
  if (!isBetween(count, 1, available) || Number(last) >= available) return []
  return Array.from({ length: count }, (_, index) => Number(first) + index)
}

function isBetween(value: number, least: number, most: number): boolean {
  return Number.isInteger(value) && value >= least && value <= most
}

function gibibytes(bytes: number): string {
  return `${(bytes / 1024 ** 3).toFixed(1)} GiB`
}
