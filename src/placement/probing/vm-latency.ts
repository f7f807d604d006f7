import type { VmClient } from '../../domain/client.ts'
import type { NodeCoordinate } from '../../domain/coordinate.ts'
import type { PeerIdText } from '../../domain/vm.ts'
import { locate } from '../coordinates.ts'
import { type ClientRoundTripsMs, type LatencySample, latencySample, latestLatencyMs } from '../latency.ts'
import type { PlacedClient } from '../shortlist.ts'

/** As far back as anything is decided by, and beyond: maxStableMs of calm.ts. */
const KEPT_MS = 600_000
/** One in three seconds, for as long. */
const MAX_SAMPLES = 200
/** What a node measured so long ago says whether to ask it again, and where clients are. */
const LATELY_MS = 60_000

/** Samples are kept over a change of clients that leaves so much of the weight: those who connect change all the time. */
const MIN_SHARED_WEIGHT = 0.5

/** A node's last round trips to clients, by `clientKey`. */
interface Measured {
  atMs: number
  roundTripsMs: ReadonlyMap<string, number | null>
}

/** What is known of one VM's clients. Values in, values out: it has no clock. */
export class VmLatency {
  #clients: readonly VmClient[]
  readonly #measured = new Map<PeerIdText, Measured>()
  #samples: LatencySample[] = []
  /** Rounds in a row in which this node reached none of the clients. */
  silentRounds = 0
  /** Of its last round; those that waited longest come first. */
  roundAtMs = Number.NEGATIVE_INFINITY

  constructor(clients: readonly VmClient[]) {
    this.#clients = clients
  }

  get clients(): readonly VmClient[] {
    return this.#clients
  }

  /** From now on the VM has these: with mostly others, what was sampled before says nothing. */
  serve(clients: readonly VmClient[]): void {
    if (!this.isOf(clients)) {
      this.#samples = []
      this.#measured.clear()
    }
    this.#clients = clients
  }

  /** Whether what was sampled says something of these. */
  isOf(clients: readonly VmClient[]): boolean {
    return sharedWeight(this.#clients, clients) >= MIN_SHARED_WEIGHT
  }

  /** Oldest first. */
  get samples(): readonly LatencySample[] {
    return this.#samples
  }

  /**
   * @param here - the node that the VM runs on
   * @param roundTripsMs - what nodes measured in this round, that one too
   */
  add(atMs: number, here: PeerIdText, roundTripsMs: ReadonlyMap<PeerIdText, ClientRoundTripsMs>): void {
    this.roundAtMs = atMs
    const keys = this.#clients.map(clientKey)
    for (const [node, tripsMs] of roundTripsMs) {
      const byClient = new Map(keys.map((key, index) => [key, tripsMs[index] ?? null]))
      this.#measured.set(node, { atMs, roundTripsMs: byClient })
    }
    for (const [node, { atMs: measuredAtMs }] of this.#measured) {
      if (measuredAtMs + LATELY_MS < atMs) this.#measured.delete(node)
    }
    const weights = this.#clients.map(({ weight }) => weight)
    const sample = latencySample(atMs, here, weights, roundTripsMs)
    this.silentRounds = sample.latencyMs.size === 0 ? this.silentRounds + 1 : 0
    if (this.silentRounds > 0) return
    this.#samples = [...this.#samples, sample]
      .filter((kept) => kept.atMs + KEPT_MS >= atMs)
      .slice(-MAX_SAMPLES)
  }

  /** Weighted latency of each node that was measured lately, in ms. */
  measuredMs(): ReadonlyMap<PeerIdText, number> {
    return latestLatencyMs(this.#samples.filter(({ atMs }) => atMs + LATELY_MS >= this.roundAtMs))
  }

  /** Where the clients are, as far as nodes with coordinates measured them lately. */
  placed(coordinateOf: (node: PeerIdText) => NodeCoordinate | null, random: () => number): PlacedClient[] {
    return this.#clients.map((client) => {
      const key = clientKey(client)
      const measured = [...this.#measured].flatMap(([node, { roundTripsMs }]) => {
        const [from, rttMs] = [coordinateOf(node), roundTripsMs.get(key) ?? null]
        return from === null || rttMs === null ? [] : [{ from, rttMs }]
      })
      return { weight: client.weight, coordinate: locate(measured, random) }
    })
  }
}

function clientKey({ host, port }: VmClient): string {
  return `${host} ${port}`
}

/** How much of the weight, as a share, is where it was; 1: all of it. */
function sharedWeight(before: readonly VmClient[], after: readonly VmClient[]): number {
  const shares = (clients: readonly VmClient[]): Map<string, number> => {
    const total = clients.reduce((sum, { weight }) => sum + weight, 0)
    const byClient = new Map<string, number>()
    // One may have been named twice.
    for (const client of clients) {
      byClient.set(clientKey(client), (byClient.get(clientKey(client)) ?? 0) + client.weight / total)
    }
    return byClient
  }
  const earlier = shares(before)
  return [...shares(after)].reduce((sum, [key, share]) => sum + Math.min(share, earlier.get(key) ?? 0), 0)
}
