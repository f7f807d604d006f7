/**
 * Collecting all of an agent's heap takes 10 to 100 ms, in which nothing else
 * goes on; V8 begins when it thinks best, and that was the blackout of one move
 * in four. So it is done when nobody waits: once all moves have ended, and
 * after large rounds, while the guest still runs.
 */

/** After so much went through, V8 may be about to collect by itself. */
const MUCH_BYTES = 16 * 1024 * 1024
/** The end of a move is told and written first. */
const AFTER_WORK_MS = 200
/**
 * What V8 has had of heap it keeps, collected or not: 100 MiB after a template
 * of 4 GiB has come. Only in its last resort does it give that back, in 200 ms;
 * an agent that has had little to do has 190 MiB.
 */
const LARGE_BYTES = 224 * 1024 * 1024

/** Does nothing in a process that V8 has not given the means (--expose-gc). */
function collect(): void {
  globalThis.gc?.()
}

/** Notes what goes through a move, and collects between rounds. */
export class RoundGarbage {
  #bytes = 0

  passed(bytes: number): void {
    this.#bytes += bytes
  }

  /** The guest runs, and nothing is under way for it. */
  roundEnded(): void {
    if (this.#bytes < MUCH_BYTES) return
    this.#bytes = 0
    collect()
  }
}

/** Collects when work has ended that leaves much behind, and no move is left. */
export class IdleGarbage {
  readonly #isMoving: () => boolean
  #timer: NodeJS.Timeout | null = null

  constructor(isMoving: () => boolean) {
    this.#isMoving = isMoving
  }

  /** A move has ended, or a template's way here or from here. */
  workEnded(): void {
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = setTimeout(() => {
      if (this.#isMoving()) return
      if (process.memoryUsage.rss() < LARGE_BYTES) collect()
      else globalThis.gc?.({ type: 'major', execution: 'sync', flavor: 'last-resort' })
    }, AFTER_WORK_MS).unref()
  }
}
