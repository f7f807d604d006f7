/**
 * Collecting all of an agent's heap takes 10 to 30 ms, in which nothing else
 * goes on; V8 begins when it thinks best, and that was the blackout of one move
 * in four. So it is done when nobody waits: once all moves have ended, and
 * after large rounds, while the guest still runs.
 */

/** After so much went through, V8 may be about to collect by itself. */
const MUCH_BYTES = 16 * 1024 * 1024
/** The end of a move is told and written first. */
const AFTER_MOVES_MS = 200

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

/** Collects when no move is left. */
export class MoveGarbage {
  readonly #isMoving: () => boolean
  #timer: NodeJS.Timeout | null = null

  constructor(isMoving: () => boolean) {
    this.#isMoving = isMoving
  }

  moveEnded(): void {
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = setTimeout(() => {
      if (!this.#isMoving()) collect()
    }, AFTER_MOVES_MS).unref()
  }
}
