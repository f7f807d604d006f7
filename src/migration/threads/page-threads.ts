import { availableParallelism } from 'node:os'
import { Worker } from 'node:worker_threads'
import { MigrationError } from '../errors.ts'
import {
  type ArgsOf,
  type FromThread,
  type JobKind,
  type Jobs,
  type MethodOf,
  receiveError,
  type ToThread,
  type ValueOf,
} from './calls.ts'

/**
 * One thread for two cores: the agent's own thread, which encrypts, and QEMU
 * want the others. Each costs 30 MiB.
 */
const MAX_THREADS = 4
const DEFAULT_THREADS = Math.min(MAX_THREADS, Math.max(1, availableParallelism() >> 1))

/** Young objects of a page thread are small and few; by default V8 would let them grow to 48 MiB. */
const MAX_YOUNG_GENERATION_MIB = 8

interface Waiting {
  resolve: (value: never) => void
  reject: (error: Error) => void
}

/**
 * The threads that do the work on pages: reading, hashing, encoding, decoding.
 * The agent's own thread, with the network and the API, never waits for it. A
 * thread that ends, for want of memory say, fails the jobs in it; the next job
 * gets a new one.
 */
export class PageThreads {
  readonly #threads: (PageThread | null)[]

  constructor({ threads = DEFAULT_THREADS }: { threads?: number } = {}) {
    this.#threads = Array.from({ length: threads }, () => null)
  }

  /** Starts the threads: the first job finds them running. */
  start(): void {
    this.#threads.forEach((_, place) => void this.#at(place))
  }

  /** Begins a job in the thread that has the fewest. */
  async open<K extends JobKind>(kind: K, init: Jobs[K]['init']): Promise<Job<Jobs[K]['job']>> {
    const places = this.#threads.map((thread, place) => ({ place, jobs: thread?.jobs ?? 0 }))
    const { place } = places.reduce((a, b) => (b.jobs < a.jobs ? b : a))
    return await this.#at(place).open(kind, init)
  }

  async close(): Promise<void> {
    await Promise.all(this.#threads.map((thread) => thread?.terminate()))
  }

  #at(place: number): PageThread {
    const thread =
      this.#threads[place] ??
      new PageThread(() => {
        this.#threads[place] = null
      })
    this.#threads[place] = thread
    return thread
  }
}

class PageThread {
  readonly #worker: Worker
  /** Calls that wait for their answers, in order, by job. */
  readonly #jobs = new Map<number, Waiting[]>()
  #lastId = 0

  constructor(onEnd: () => void) {
    this.#worker = new Worker(new URL('./page-thread.ts', import.meta.url), {
      name: 'drover-pages',
      resourceLimits: { maxYoungGenerationSizeMb: MAX_YOUNG_GENERATION_MIB },
    })
    // It keeps nobody from ending.
    this.#worker.unref()
    this.#worker.on('message', (answer: FromThread) => this.#onAnswer(answer))
    this.#worker.on('error', (cause) => this.#onEnd(cause))
    this.#worker.on('exit', () => {
      this.#onEnd(new Error('it ended'))
      onEnd()
    })
  }

  get jobs(): number {
    return this.#jobs.size
  }

  async open<K extends JobKind>(kind: K, init: Jobs[K]['init']): Promise<Job<Jobs[K]['job']>> {
    const id = ++this.#lastId
    this.#jobs.set(id, [])
    const ask = (message: ToThread) => this.#ask(message)
    try {
      await ask({ id, open: kind, init })
    } catch (error) {
      this.#jobs.delete(id)
      throw error
    }
    return new Job(id, ask, () => this.#jobs.delete(id))
  }

  async terminate(): Promise<void> {
    await this.#worker.terminate()
  }

  #ask(message: ToThread): Promise<unknown> {
    const waiting = this.#jobs.get(message.id)
    if (waiting === undefined) return Promise.reject(threadEnded())
    const { promise, resolve, reject } = Promise.withResolvers<unknown>()
    waiting.push({ resolve, reject })
    this.#worker.postMessage(message)
    return promise
  }

  #onAnswer(answer: FromThread): void {
    const waiting = this.#jobs.get(answer.id)?.shift()
    if (waiting === undefined) return
    if ('error' in answer) waiting.reject(receiveError(answer.error))
    else waiting.resolve(answer.value as never)
  }

  #onEnd(cause: unknown): void {
    const calls = [...this.#jobs.values()].flat()
    this.#jobs.clear()
    for (const { reject } of calls) reject(threadEnded(cause))
  }
}

function threadEnded(cause?: unknown): MigrationError {
  return new MigrationError(
    'PAGE_THREAD_ENDED',
    'the thread that worked on the pages of this move has ended',
    {
      cause,
    },
  )
}

/** A job that lives in a page thread, as the agent's own thread holds it. */
export class Job<J> implements AsyncDisposable {
  readonly #id: number
  readonly #ask: (message: ToThread) => Promise<unknown>
  readonly #forget: () => void
  #closing: Promise<void> | null = null

  constructor(id: number, ask: (message: ToThread) => Promise<unknown>, forget: () => void) {
    this.#id = id
    this.#ask = ask
    this.#forget = forget
  }

  /**
   * Calls one of its methods. Calls may be made without waiting for the answers; those come in order.
   *
   * @throws what the method throws: errors with codes keep them; MigrationError PAGE_THREAD_ENDED
   */
  call<M extends MethodOf<J>>(method: M, args: ArgsOf<J, M>): Promise<ValueOf<J, M>> {
    return this.#ask({ id: this.#id, call: method, args: args as readonly unknown[] }) as Promise<
      ValueOf<J, M>
    >
  }

  /** Once: whatever it holds is let go of. */
  [Symbol.asyncDispose](): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    try {
      await this.#ask({ id: this.#id, close: true })
    } catch {
      // The thread is gone, and with it what the job held.
    } finally {
      this.#forget()
    }
  }
}
