import type { NodeCoordinate } from '../../domain/coordinate.ts'
import { Repeating } from '../../domain/repeating.ts'
import type { PeerIdText } from '../../domain/vm.ts'
import { isCoordinate, movedCoordinate, unknownCoordinate } from '../coordinates.ts'

/** A node that has just started finds its place in a minute. */
const FIRST_ROUNDS = 20
const FIRST_INTERVAL_MS = 2_000
/** Places in the network change in hours. */
const INTERVAL_MS = 10_000
/** Nodes that start together drift apart. */
const JITTER = 0.2
/** Pinged in one round, whatever the size of the mesh. */
const PEERS_PER_ROUND = 4
/** Over a connection that is there. */
const PING_TIMEOUT_MS = 5_000

/** A peer that there is a connection to, with the coordinate that it announced. */
export interface PlacedPeer {
  peerId: PeerIdText
  coordinate: NodeCoordinate
}

export interface OwnCoordinateComponents {
  peers: () => readonly PlacedPeer[]
  /** One round trip in ms; rejects when there is none. */
  ping: (peerId: PeerIdText, signal: AbortSignal) => Promise<number>
}

/** This node's place in the network, held where round trips to peers say that it is. */
export class OwnCoordinate {
  readonly #random: () => number
  readonly #moving = new Repeating()
  #now = unknownCoordinate()
  #rounds = 0

  /** @param init.random - from 0 to below 1 */
  constructor({ random = Math.random }: { random?: () => number } = {}) {
    this.#random = random
  }

  get now(): NodeCoordinate {
    return this.#now
  }

  start(components: OwnCoordinateComponents): void {
    this.#moving.start(
      () => this.#pauseMs(),
      (signal) => this.round(components, signal),
    )
  }

  async stop(): Promise<void> {
    await this.#moving.stop()
  }

  /** Pings some peers, chosen by chance: each pulls or pushes a bit. Takes PING_TIMEOUT_MS at most. */
  async round({ peers, ping }: OwnCoordinateComponents, signal: AbortSignal): Promise<void> {
    const usable = peers().filter(({ coordinate }) => isCoordinate(coordinate))
    const drawn = usable
      .map((peer) => ({ ...peer, lot: this.#random() }))
      .toSorted((a, b) => a.lot - b.lot)
      .slice(0, PEERS_PER_ROUND)
    const pings = drawn.map(async ({ peerId, coordinate }) => {
      const bounded = AbortSignal.any([signal, AbortSignal.timeout(PING_TIMEOUT_MS)])
      const rttMs = await ping(peerId, bounded)
      this.#now = movedCoordinate(this.#now, coordinate, rttMs, this.#random)
    })
    // Who doesn't answer teaches nothing.
    await Promise.allSettled(pings)
  }

  /** Before the next round. */
  #pauseMs(): number {
    const intervalMs = this.#rounds++ < FIRST_ROUNDS ? FIRST_INTERVAL_MS : INTERVAL_MS
    return intervalMs * (1 - JITTER + 2 * JITTER * this.#random())
  }
}
