import { expect, test } from 'vitest'
import { MESH_RATE_PER_S } from '../../src/mesh/announcer.ts'
import { MAX_GOSSIP_DEGREE } from '../../src/mesh/gossip.ts'
import { AnnouncementMesh } from '../bench/announcement-mesh.ts'
import { seededRandom } from '../bench/random.ts'
import { typicalRoundTrips } from '../bench/round-trips.ts'

const STEADY_MS = 200_000
/** Beats are at random moments: there are some more or less than 400 of them, and links in an overlay. */
const CHANCE = 1.15

async function simulated(nodes: number): Promise<AnnouncementMesh> {
  const random = seededRandom(7)
  return await AnnouncementMesh.start({ nodes, random, roundTrip: typicalRoundTrips(random) })
}

/**
 * Whatever the size of the mesh: MESH_RATE_PER_S announcements are made in all
 * of it, and each leaves a node at most once over each of its links.
 */
const MOST_MESSAGES_PER_S = MESH_RATE_PER_S * MAX_GOSSIP_DEGREE * CHANCE

test('with 1000 nodes a node has no more to do than with 200, and all know a new template within 2 s', {
  timeout: 60_000,
}, async () => {
  const startMs = performance.now()
  const few = await (await simulated(200)).steadyTraffic(STEADY_MS)
  const mesh = await simulated(1000)
  const many = await mesh.steadyTraffic(STEADY_MS)
  expect(many.maxMessages).toBeLessThan(MOST_MESSAGES_PER_S)
  expect(many.maxBytes).toBeLessThan(MOST_MESSAGES_PER_S * (many.announcementBytes + 100))
  expect(many.meanBytes).toBeLessThan(CHANCE * few.meanBytes)
  // And they do announce themselves.
  expect(many.meanMessages).toBeGreaterThan(MESH_RATE_PER_S * 4)

  const tookMs: number[] = []
  for (let index = 0; index < 5; index++) tookMs.push(...(await mesh.newTemplate(index, 5000)))
  expect(tookMs).toHaveLength(5 * 999)
  expect(Math.max(...tookMs)).toBeLessThan(2000)
  console.log(
    `1000 nodes: ${Math.round(many.meanBytes)} B/s sent by each (200 nodes: ${Math.round(few.meanBytes)}), ` +
      `known to all after ${Math.round(Math.max(...tookMs))} ms; simulated in ${Math.round(performance.now() - startMs)} ms`,
  )
})
