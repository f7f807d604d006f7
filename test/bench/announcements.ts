/**
 * `npm run simulate:announcements`: what announcing costs a node, and how soon
 * all know, in meshes of 50, 200 and N nodes. The model: announcement-mesh.ts.
 *
 *     npm run simulate:announcements -- [--nodes N] [--seed S] [--rtt FILE] [--json FILE]
 *
 * --rtt takes measured round trips (round-trips.ts); without it they are drawn like PlanetLab's.
 */
import { mkdir, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { parseArgs } from 'node:util'
import { AnnouncementMesh } from './announcement-mesh.ts'
import { seededRandom } from './random.ts'
import { measuredRoundTrips, typicalRoundTrips } from './round-trips.ts'
import { formatBytes, formatMs, textTable } from './table.ts'

/** 400 announcements: one more or less changes little. */
const STEADY_MS = 200_000
const NEW_TEMPLATES = 20
const WAIT_MS = 5_000

const { values } = parseArgs({
  options: {
    nodes: { type: 'string', default: '1000' },
    seed: { type: 'string', default: '1' },
    rtt: { type: 'string' },
    json: { type: 'string' },
  },
})
const [nodes, seed] = [Number(values.nodes), Number(values.seed)]
if (!Number.isInteger(nodes) || nodes < 2 || nodes > 4096 || !Number.isInteger(seed)) {
  console.error(
    'usage: npm run simulate:announcements -- [--nodes 2..4096] [--seed S] [--rtt FILE] [--json FILE]',
  )
  process.exit(2)
}

const rows = []
for (const count of new Set([50, 200, nodes].filter((size) => size <= nodes))) {
  const random = seededRandom(seed)
  const roundTrip =
    values.rtt === undefined ? typicalRoundTrips(random) : await measuredRoundTrips(values.rtt)
  const mesh = await AnnouncementMesh.start({ nodes: count, random, roundTrip })
  const traffic = await mesh.steadyTraffic(STEADY_MS)
  const tookMs: number[] = []
  for (let index = 0; index < NEW_TEMPLATES; index++) tookMs.push(...(await mesh.newTemplate(index, WAIT_MS)))
  tookMs.sort((a, b) => a - b)
  const at = (share: number) => tookMs[Math.min(tookMs.length - 1, Math.floor(tookMs.length * share))]!
  rows.push({ nodes: count, traffic, knownMs: { p50: at(0.5), p99: at(0.99), max: tookMs.at(-1)! } })
}

console.log(
  textTable(
    ['nodes', 'announcement', 'messages/s', 'most', 'sent/s', 'most', 'known p50', 'p99', 'by all'],
    rows.map(({ nodes: count, traffic, knownMs }) => [
      String(count),
      formatBytes(traffic.announcementBytes),
      traffic.meanMessages.toFixed(1),
      traffic.maxMessages.toFixed(1),
      formatBytes(traffic.meanBytes),
      formatBytes(traffic.maxBytes),
      formatMs(knownMs.p50),
      formatMs(knownMs.p99),
      formatMs(knownMs.max),
    ]),
  ),
)
if (values.json !== undefined) {
  await mkdir(dirname(values.json), { recursive: true })
  const facts = { seed, rtt: values.rtt ?? null, steadyMs: STEADY_MS, newTemplates: NEW_TEMPLATES, rows }
  await writeFile(values.json, `${JSON.stringify(facts, null, 2)}\n`)
}
