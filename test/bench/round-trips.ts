import { readFile } from 'node:fs/promises'
import { gunzipSync } from 'node:zlib'

/** Round trip between two nodes, in ms. */
export type RoundTrip = (from: number, to: number) => number

/** Nodes at one place: a switch between them. */
const SAME_PLACE_MS = 0.5
/** Median and spread of what PlanetLab's hosts measured (half within 135 ms, nine of ten within 293). */
const MEDIAN_MS = 135
const LOG_SIGMA = Math.log(293 / 135) / 1.2816

/**
 * Round trips that were measured: gzip of little-endian float32 ms, laid out
 * `[slice][from][to]`, with the sizes in its name (`...-3x490x490-rtt-ms.f32le.gz`).
 * Nodes beyond the hosts in it share a place with others.
 */
export async function measuredRoundTrips(path: string): Promise<RoundTrip> {
  const [, hosts] = /-\d+x(\d+)x\d+-rtt-ms\.f32le\.gz$/.exec(path) ?? []
  if (hosts === undefined) throw new Error(`${path}: its name doesn't say how many hosts there are`)
  const count = Number(hosts)
  const bytes = gunzipSync(await readFile(path))
  const at = (from: number, to: number) => bytes.readFloatLE(4 * (from * count + to))
  return (from, to) => {
    const [a, b] = [from % count, to % count]
    if (a === b) return SAME_PLACE_MS
    const measured = [at(a, b), at(b, a)].find((rttMs) => !Number.isNaN(rttMs))
    return measured ?? MEDIAN_MS
  }
}

/** Log-normal round trips like PlanetLab's; the same one for a pair both ways. */
export function typicalRoundTrips(random: () => number): RoundTrip {
  const known = new Map<string, number>()
  return (from, to) => {
    const pair = `${Math.min(from, to)} ${Math.max(from, to)}`
    // Box and Muller, 1958.
    const normal = Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random())
    const rttMs = known.get(pair) ?? MEDIAN_MS * Math.exp(LOG_SIGMA * normal)
    known.set(pair, rttMs)
    return rttMs
  }
}
