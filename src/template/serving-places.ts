import { TemplateError } from './errors.ts'

/**
 * Channels that templates are served on at a time. Each costs some 4 MiB while
 * it is read from: pages of a reply, the one that is encoded and the one that
 * is on its way.
 */
const MAX_SERVED = 64
/** Of those, channels of one peer: 16 moves, each waiting for another template. */
const MAX_SERVED_PER_PEER = 16

/** The room that a node has for those who fetch templates from it. */
export class ServingPlaces {
  readonly #max: number
  readonly #maxPerPeer: number
  readonly #taken = new Map<string, number>()
  #total = 0

  constructor({ max = MAX_SERVED, maxPerPeer = MAX_SERVED_PER_PEER } = {}) {
    this.#max = max
    this.#maxPerPeer = maxPerPeer
  }

  /**
   * @returns gives the place back when disposed
   * @throws TemplateError TOO_MANY_FETCHES
   */
  take(peer: string): Disposable {
    const ofPeer = this.#taken.get(peer) ?? 0
    if (this.#total >= this.#max || ofPeer >= this.#maxPerPeer) {
      throw new TemplateError(
        'TOO_MANY_FETCHES',
        `templates are sent on ${this.#total} channels, ${ofPeer} of them yours: try again later`,
      )
    }
    this.#taken.set(peer, ofPeer + 1)
    this.#total++
    const free = new DisposableStack()
    free.defer(() => {
      const left = this.#taken.get(peer)! - 1
      if (left > 0) this.#taken.set(peer, left)
      else this.#taken.delete(peer)
      this.#total--
    })
    return free
  }
}
