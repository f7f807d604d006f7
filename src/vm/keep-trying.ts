import { setTimeout as sleep } from 'node:timers/promises'

/** A disk that is full stays so until somebody frees space: asked soon, then twice a minute. */
const RETRY_MS = { first: 500, last: 30_000 } as const

/**
 * Tries in the background what a disk has refused.
 *
 * @param attempt - bounded; rejects when it is to be tried again
 * @returns resolves when it has succeeded, or the signal aborts; never rejects
 */
export async function keepTrying(attempt: () => Promise<void>, signal: AbortSignal): Promise<void> {
  for (let delayMs: number = RETRY_MS.first; ; delayMs = Math.min(delayMs * 2, RETRY_MS.last)) {
    try {
      await sleep(delayMs, undefined, { signal, ref: false })
    } catch {
      return
    }
    try {
      return await attempt()
    } catch {
      // Whoever began this has told of the first failure.
    }
  }
}
