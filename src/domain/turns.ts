/**
 * Lets commands on one thing, a VM say, follow each other: each runs when those before it
 * have ended. Waiting is bounded because each of them is.
 */
export class Turns {
  #last: Promise<unknown> = Promise.resolve()

  /** Runs `action` in its turn; not at all when the signal aborts before. */
  run<T>(action: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    const turn = this.#last.then(() => {
      signal?.throwIfAborted()
      return action()
    })
    this.#last = turn.catch(() => {})
    return turn
  }
}
