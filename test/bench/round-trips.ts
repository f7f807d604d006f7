import { readFile } from 'node:fs/promises'
import { gunzipSync } from 'node:zlib'

/** Round trip between two nodes, in ms. */
export type RoundTrip = (from: number, to: number) => number

/** Nodes at one place: a switch between them. */
const SAME_PLACE_MS = 0.5
/** Median and spread of what PlanetLab's hosts measured (half within 135 ms, nine of ten within 293). */
const MEDIAN_MS = 135
const LOG_SIGMA = Math.log(293 / 135) / 1.2816

/** Round trips as they were measured, one table of all pairs per slice of time. */
export interface RoundTripTables {
  slices: number
  /** Hosts that measured each other; nodes beyond them share a place with others. */
  hosts: number
  /** What `from` measured to `to`, in ms; NaN: its probe failed. */
  measuredMs(slice: number, from: number, to: number): number
  /** What a packet takes, in ms: where the probe failed, the one from the other side, or else the median of all. */
  actualMs(slice: number, from: number, to: number): number
}

/**
 * Reads a gzip of little-endian float32 ms, laid out `[slice][from][to]`, with
 * the sizes in its name (`...-3x490x490-rtt-ms.f32le.gz`).
 */
export async function readRoundTrips(path: string): Promise<RoundTripTables> {
  const [, slices, hosts, again] = /-(\d+)x(\d+)x(\d+)-rtt-ms\.f32le\.gz$/.exec(path) ?? []
  if (slices === undefined || hosts !== again) {
    throw new Error(`${path}: its name doesn't say how many slices and hosts there are`)
  }
  const bytes = gunzipSync(await readFile(path))
  const count = Number(hosts)
  const sizeBytes = 4 * Number(slices) * count ** 2
  if (bytes.length !== sizeBytes) {
    throw new Error(`${path}: ${bytes.length} bytes, and ${sizeBytes} by its name`)
  }
  // Copied: a Float32Array begins at a multiple of four. drover's machines are all little-endian.
  const tables = new Float32Array(Uint8Array.from(bytes).buffer)
  const measuredMs = (slice: number, from: number, to: number) => {
    const a = from % count
    const b = to % count
    return a === b ? SAME_PLACE_MS : tables[(slice * count + a) * count + b]!
  }
  const actualMs = (slice: number, from: number, to: number) =>
    measuredMs(slice, from, to) || measuredMs(slice, to, from) || MEDIAN_MS
  return { slices: Number(slices), hosts: count, measuredMs, actualMs }
}

/** The round trips of a data set's first slice. */
export async function measuredRoundTrips(path: string): Promise<RoundTrip> {
  const { actualMs } = await readRoundTrips(path)
  return (from, to) => actualMs(0, from, to)
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

/** Pairs like PlanetLab's; each keeps its round trip for `dwellSlices`, as pairs of the Seattle data do, and not all change at once. */
export function drawnRoundTrips(
  { hosts, slices, dwellSlices }: { hosts: number; slices: number; dwellSlices: number },
  random: () => number,
): RoundTripTables {
  const eras = Array.from({ length: Math.ceil(slices / dwellSlices) + 1 }, () => typicalRoundTrips(random))
  const actualMs = (slice: number, from: number, to: number) => {
    const [a, b] = [from % hosts, to % hosts]
    if (a === b) return SAME_PLACE_MS
    const shifted = slice + ((Math.min(a, b) * 31 + Math.max(a, b) * 17) % dwellSlices)
    return eras[Math.floor(shifted / dwellSlices)]!(a, b)
  }
  return { slices, hosts, actualMs, measuredMs: actualMs }
}
