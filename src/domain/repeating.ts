import { setTimeout as sleep } from 'node:timers/promises'

/** Does something again and again, with a pause before each time, until it is stopped. Keeps no process alive. */
export class Repeating {
  readonly #stopping = new AbortController()
  #running: Promise<void> = Promise.resolve()

  /** Aborts when this is stopped. */
  get signal(): AbortSignal {
    return this.#stopping.signal
  }

  /**
   * @param pauseMs - asked before each pause
   * @param step - waited for. What it throws ends the repeating, and is thrown by `stop`, unless it is stopped already
   */
  start(pauseMs: () => number, step: (signal: AbortSignal) => Promise<unknown> | undefined): void {
    this.#running = this.#repeat(pauseMs, step)
  }

  /** Resolves when the step under way has ended. */
  async stop(): Promise<void> {
    this.#stopping.abort(new Error('the agent stops'))
    await this.#running
  }

  async #repeat(...[pauseMs, step]: Parameters<Repeating['start']>): Promise<void> {
    const { signal } = this
    try {
      for (;;) {
        await sleep(pauseMs(), undefined, { signal, ref: false })
        await step(signal)
        signal.throwIfAborted()
      }
    } catch (error) {
      // Whatever a stop makes of a pause, or of a step.
      if (!signal.aborted) throw error
    }
  }
}
