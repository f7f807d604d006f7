import type { PeerIdText } from '../domain/vm.ts'
import type { Calm } from './calm.ts'
import type { LatencySample } from './latency.ts'

/** What a VM's clients would have saved at another node, and for how long that has been so. */
export interface Lead {
  /** Of the latest sample. */
  hereMs: number
  thereMs: number
  /** What may be counted on: the latest saving, or the mean of the agreeing samples if that is less. */
  savedMs: number
  /** What the saving has to be, so that it isn't noise. */
  neededMs: number
  /** Samples in a row, up to the latest, that show such a saving. */
  samples: number
  /** Since the first of them, at most `maxStableMs`. */
  stableMs: number
}

/**
 * The lead of `there` over `here`. The longer something has lasted, the longer it
 * is expected to: its age says in what time a move has to earn its cost, and a lead that comes and goes with each sample never gets old enough.
 *
 * @param samples - oldest first
 * @returns null when the latest sample lacks one of the nodes, or is too long past
 */
export function leadOf(
  samples: readonly LatencySample[],
  here: PeerIdText,
  there: PeerIdText,
  nowMs: number,
  calm: Calm,
): Lead | null {
  let lead: Lead | null = null
  let sumMs = 0
  let laterMs = nowMs
  for (let index = samples.length - 1; index >= 0; index--) {
    const { atMs, latencyMs } = samples[index]!
    const [hereMs, thereMs] = [latencyMs.get(here), latencyMs.get(there)]
    if (laterMs - atMs > calm.maxSampleGapMs) break
    if (hereMs === undefined || thereMs === undefined) {
      // The latest has to be there; of those before it one may be lost on its way.
      if (lead === null) return null
      continue
    }
    laterMs = atMs
    const savedMs = hereMs - thereMs
    const neededMs = Math.max(calm.minSavedMs, calm.minSavedShare * hereMs)
    lead ??= { hereMs, thereMs, savedMs, neededMs, samples: 0, stableMs: 0 }
    if (savedMs < neededMs || nowMs - atMs > calm.maxStableMs) break
    sumMs += savedMs
    lead.samples++
    lead.stableMs = Math.max(0, nowMs - atMs)
  }
  if (lead !== null && lead.samples > 0) lead.savedMs = Math.min(lead.savedMs, sumMs / lead.samples)
  return lead
}
