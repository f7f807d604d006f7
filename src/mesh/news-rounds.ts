/**
 * One hello with one member, picked at random, so often: what a node missed
 * while it was away comes round within minutes. After news, and two nodes that
 * join at the same moment are news that neither has, a few rounds follow each
 * other quickly: log2 of the mesh's size is what it takes for everybody to
 * know. The cost per node doesn't grow with the mesh (anti-entropy and rumors:
 * Demers et al., "Epidemic algorithms for replicated database maintenance",
 * PODC 1987).
 */
const GOSSIP_INTERVAL_MS = 30_000
export const NEWS_INTERVAL_MS = 500
const MIN_NEWS_ROUNDS = 3

/** When the next hello without an occasion is due. */
export class NewsRounds {
  #left = 0
  #dueAtMs = 0

  /** There is something to tell. */
  begin(members: number): void {
    this.#left = MIN_NEWS_ROUNDS + Math.ceil(Math.log2(Math.max(1, members)))
    this.#dueAtMs = 0
  }

  /** Whether it is time for a round; it counts as done. */
  take(nowMs: number): boolean {
    if (nowMs < this.#dueAtMs) return false
    this.#dueAtMs = nowMs + (this.#left > 0 ? NEWS_INTERVAL_MS : GOSSIP_INTERVAL_MS)
    this.#left = Math.max(0, this.#left - 1)
    return true
  }
}
