import type { NodeCoordinate } from '../domain/coordinate.ts'
import type { PeerIdText } from '../domain/vm.ts'
import { distanceMs } from './coordinates.ts'

/** The best of those that were measured: a lead has to be seen in every round to last. */
const BEST_MEASURED = 3
/** Those that the coordinates say are near, beside the ones above. */
const NEAREST_GUESSED = 3
/** Those that hold the template, the nearest first: a move to them is cheap. */
const HOLDERS = 3
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
  const take = (count: number, from: readonly Keyed[]) => {
    const left = from.filter(({ node, key }) => key < Infinity && !chosen.has(node.peerId))
    for (const { node } of lowest(count, left)) chosen.add(node.peerId)
  }
  const guessed = nodes.map((node) => ({ node, key: guessedMs(node.coordinate, clients) }))
  take(
    BEST_MEASURED,
    nodes.map((node) => ({ node, key: measuredMs.get(node.peerId) ?? Infinity })),
  )
  take(NEAREST_GUESSED, guessed)
  // A holder without a guess is still better than none.
  const holders = guessed.filter(({ node }) => node.holdsTemplate)
  take(
    HOLDERS,
    holders.map(({ node, key }) => ({ node, key: Math.min(key, Number.MAX_VALUE) })),
  )
  take(
    MAX_SHORTLIST - chosen.size,
    nodes.map((node) => ({ node, key: random() })),
  )
  return [...chosen]
}

interface Keyed {
  node: AskableNode
  key: number
}

/** The `count` lowest, without sorting a thousand nodes for three. */
function lowest(count: number, keyed: readonly Keyed[]): Keyed[] {
  const found: Keyed[] = []
  for (const entry of keyed) {
    const last = found.at(-1)
    if (found.length === count && last !== undefined && entry.key >= last.key) continue
    const place = found.findIndex(({ key }) => entry.key < key)
    found.splice(place === -1 ? found.length : place, 0, entry)
    if (found.length > count) found.pop()
  }
  return found
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
