import type { TemplateId } from '../domain/template.ts'
import { unlessAborted } from '../domain/wait.ts'

/** How far a fetch is. */
export interface FetchProgress {
  /** Payload and framing from the peer so far, over all channels. */
  bytesReceived: number
  chunksDone: number
  chunksTotal: number
}

export interface Fetched {
  /** Payload and framing, over all channels of the fetch. */
  bytesReceived: number
  bytesSent: number
  /** Peers that sent something that was kept. */
  from: readonly string[]
  /** From the first request until the last chunk was kept: hashing and sealing come on top. */
  transferMs: number
}

export const NOTHING_FETCHED: Fetched = { bytesReceived: 0, bytesSent: 0, from: [], transferMs: 0 }

export type StartFetch = (
  signal: AbortSignal,
  onProgress: (progress: FetchProgress) => void,
) => Promise<Fetched>

export interface FetchWait {
  signal: AbortSignal
  onProgress?: ((progress: FetchProgress) => void) | undefined
}

interface Run {
  controller: AbortController
  result: Promise<Fetched>
  waiting: Set<FetchWait>
}

/**
 * Fetches under way on this node, one per template: who wants a template that
 * is being fetched waits for that fetch. It ends when nobody waits any more.
 */
export class SharedFetches {
  readonly #runs = new Map<TemplateId, Run>()
  readonly #stopping = new AbortController()

  /**
   * Resolves once the template has been fetched, by `start` or by a fetch that
   * was under way: that one's bytes are not counted twice. If the other one
   * fails, `start` gets its turn, as its peer may be a better one.
   */
  async fetch(id: TemplateId, start: StartFetch, wait: FetchWait): Promise<Fetched> {
    for (;;) {
      this.#stopping.signal.throwIfAborted()
      wait.signal.throwIfAborted()
      const running = this.#runs.get(id)
      if (running === undefined) return this.#wait(this.#start(id, start), wait)
      try {
        await this.#wait(running, wait)
        return NOTHING_FETCHED
      } catch {
        // Our turn, unless we or the whole node gave up.
      }
    }
  }

  /** Whether a fetch of this template is under way. */
  has(id: TemplateId): boolean {
    return this.#runs.has(id)
  }

  /** Ends every fetch, and waits until their drafts are gone. */
  async stop(): Promise<void> {
    this.#stopping.abort()
    await Promise.allSettled([...this.#runs.values()].map(({ result }) => result))
  }

  #start(id: TemplateId, start: StartFetch): Run {
    const controller = new AbortController()
    const signal = AbortSignal.any([controller.signal, this.#stopping.signal])
    const waiting = new Set<FetchWait>()
    const run = async (): Promise<Fetched> => {
      try {
        return await start(signal, (progress) => {
          for (const { onProgress } of waiting) onProgress?.(progress)
        })
      } finally {
        this.#runs.delete(id)
      }
    }
    const started: Run = { controller, waiting, result: Promise.resolve().then(run) }
    this.#runs.set(id, started)
    return started
  }

  async #wait({ controller, result, waiting }: Run, wait: FetchWait): Promise<Fetched> {
    waiting.add(wait)
    try {
      return await unlessAborted(result, wait.signal)
    } catch (error) {
      if (waiting.size === 1) {
        controller.abort(wait.signal.reason)
        await result.catch(() => {})
      }
      throw error
    } finally {
      waiting.delete(wait)
    }
  }
}
