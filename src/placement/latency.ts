import type { PeerIdText } from '../domain/vm.ts'

/** What clients of one VM have from nodes, at one moment. */
export interface LatencySample {
  atMs: number
  /** Weighted mean over the VM's clients of the round trip that the node itself measured, in ms. */
  latencyMs: ReadonlyMap<PeerIdText, number>
}

/** Round trips to one VM's clients as one node probed them, in the order of the clients; null: no answer. */
export type ClientRoundTripsMs = readonly (number | null)[]

/**
 * Makes a sample of probes, so that its nodes can be compared: all of them over
 * the same clients. A client that `here` doesn't reach counts for nobody (a node
 * gains nothing by reaching it, a client that is switched off blocks nothing); a
 * node that lacks one of the others isn't in the sample at all, as leaving a far
 * client out would make it look near.
 *
 * @param here - the node that the VM runs on; without its probes the sample is empty
 * @param weights - of the clients, above 0
 * @param roundTripsMs - of each node, as many as there are weights
 */
export function latencySample(
  atMs: number,
  here: PeerIdText,
  weights: readonly number[],
  roundTripsMs: ReadonlyMap<PeerIdText, ClientRoundTripsMs>,
): LatencySample {
  const reached = roundTripsMs.get(here) ?? []
  const counted = [...weights.keys()].filter((client) => typeof reached[client] === 'number')
  const latencyMs = new Map<PeerIdText, number>()
  for (const [node, tripsMs] of counted.length === 0 ? [] : roundTripsMs) {
    let [sumMs, weight] = [0, 0]
    for (const client of counted) {
      // NaN stays NaN: one that is missing spoils the sum.
      sumMs += (tripsMs[client] ?? Number.NaN) * (weights[client] ?? 0)
      weight += weights[client] ?? 0
    }
    if (Number.isFinite(sumMs) && weight > 0) latencyMs.set(node, sumMs / weight)
  }
  return { atMs, latencyMs }
}

/** The latest that each node measured, within the time of the samples: whom to ask again, not what to decide by. */
export function latestLatencyMs(samples: readonly LatencySample[]): Map<PeerIdText, number> {
  return new Map(samples.flatMap(({ latencyMs }) => [...latencyMs]))
}
