import type { NodeCoordinate } from '../domain/coordinate.ts'
import type { PeerIdText } from '../domain/vm.ts'
import { distanceMs } from './coordinates.ts'

/** The best of those that were measured: a lead has to be seen in every round to last. */
const BEST_MEASURED = 3
/** Those that the coordinates say are near, beside the ones above. */
const NEAREST_GUESSED = 3
/** Those that hold the template, the nearest first: a move to them is cheap. */
const HOLDERS = 2
/** And one by chance, more where less is known: coordinates are wrong about some. */
const BY_CHANCE = 1

/** The most nodes that are asked for one VM in a round. */
export const MAX_SHORTLIST = BEST_MEASURED + NEAREST_GUESSED + HOLDERS + BY_CHANCE

/** A node that could be asked what it has to a VM's clients. */
export interface AskableNode {
  peerId: PeerIdText
  /** Null: it announced none. */
  coordinate: NodeCoordinate | null
  holdsTemplate: boolean
}

/** A client with its place as `locate` found it; null: too little was measured. */
export interface PlacedClient {
  weight: number
  coordinate: NodeCoordinate | null
}

/**
 * Whom to ask for one VM in this round. Coordinates end here: what is decided
 * afterwards rests on what the nodes on this list measure.
 *
 * @param nodes - fit to take the VM, without the one that it is on
 * @param clients - of the VM; without any place among them the nearest aren't known, and chance chooses
 * @param measuredMs - weighted latency of nodes that were measured lately
 * @param random - from 0 to below 1
 * @returns MAX_SHORTLIST peers at most, each once
 */
export function shortlist(
  nodes: readonly AskableNode[],
  clients: readonly PlacedClient[],
  measuredMs: ReadonlyMap<PeerIdText, number>,
  random: () => number,
): PeerIdText[] {
  const chosen = new Set<PeerIdText>()
  const guessed = new Map(nodes.map((node) => [node.peerId, guessedMs(node.coordinate, clients)]))
  take(BEST_MEASURED, nodes, ({ peerId }) => measuredMs.get(peerId) ?? Infinity)
  take(NEAREST_GUESSED, nodes, ({ peerId }) => guessed.get(peerId) ?? Infinity)
  const holders = nodes.filter(({ holdsTemplate }) => holdsTemplate)
  // A holder without a guess is still better than none.
  take(HOLDERS, holders, ({ peerId }) => Math.min(guessed.get(peerId) ?? Infinity, Number.MAX_VALUE))
  const chance = new Map(nodes.map(({ peerId }) => [peerId, random()]))
  take(MAX_SHORTLIST - chosen.size, nodes, ({ peerId }) => chance.get(peerId) ?? Infinity)
  return [...chosen]

  function take(count: number, from: readonly AskableNode[], orderMs: (node: AskableNode) => number): void {
    const ordered = from
      .filter((node) => !chosen.has(node.peerId) && orderMs(node) < Infinity)
      .sort((a, b) => orderMs(a) - orderMs(b))
    for (const { peerId } of ordered.slice(0, count)) chosen.add(peerId)
  }
}

/** The weighted mean of the guessed round trips; Infinity where nothing is guessed. */
function guessedMs(from: NodeCoordinate | null, clients: readonly PlacedClient[]): number {
  let [sumMs, weight] = [0, 0]
  for (const client of clients) {
    if (from === null || client.coordinate === null) continue
    sumMs += client.weight * distanceMs(from, client.coordinate)
    weight += client.weight
  }
  return weight === 0 ? Infinity : sumMs / weight
}
