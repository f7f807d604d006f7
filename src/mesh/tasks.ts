import { setTimeout as sleep } from 'node:timers/promises'

/** Everything that runs here ends at its signal; this is for what forgets to. */
const STOP_TIMEOUT_MS = 10_000

/** Work that nobody waits for while it goes on, but that doesn't outlive its owner. */
export class Tasks {
  readonly #stopping = new AbortController()
  readonly #running = new Set<Promise<void>>()

  /** How many are going on. */
  get count(): number {
    return this.#running.size
  }

  /**
   * Does nothing once stopped.
   *
   * @param onFailure - gets what `work` throws, unless it was stopped
   */
  run(work: (signal: AbortSignal) => Promise<void>, onFailure: (error: unknown) => void): void {
    if (this.#stopping.signal.aborted) return
    // A signal of its own: listeners that a task leaves on it go with it.
    const signal = AbortSignal.any([this.#stopping.signal])
    const task = work(signal)
      .catch((error: unknown) => {
        if (!signal.aborted) onFailure(error)
      })
      .finally(() => this.#running.delete(task))
    this.#running.add(task)
  }

  /** Ends everything that runs, and waits until it has ended. */
  async stop(reason: Error): Promise<void> {
    this.#stopping.abort(reason)
    const enough = new AbortController()
    const timeout = sleep(STOP_TIMEOUT_MS, undefined, { signal: enough.signal }).catch(() => undefined)
    await Promise.race([Promise.allSettled(this.#running), timeout])
    enough.abort()
    await timeout
  }
}
