import { DroverError } from '../domain/errors.ts'
import { type ParsedEnvelope, parseEnvelope } from './announcement-envelope.ts'
import type { Directory, NodeEvent } from './directory.ts'

/**
 * What each author may say: as much as an announcer does that changes all the
 * time (MIN_INTERVAL_MS). Whoever sends us ten times that itself is no drover.
 */
const TOKENS_PER_S = 2
const BURST = 8
const FLOOD_PER_S = 20
const FLOOD_BURST = 80
const MAX_BUCKETS = 8192

/**
 * `accept`: taken in, and worth handing on. `ignore`: old, or more than its
 * author should say; no fault of whoever handed it on. `reject`: nobody who
 * checks what he hands on sends that.
 */
export type Verdict = 'accept' | 'ignore' | 'reject'

export interface IntakeComponents {
  directory: Directory
  onEvent: (event: NodeEvent) => void
}

/**
 * The one way into the directory, for what gossip brings and for what peers
 * hand on. The author is who signed, never what a field or a sender says.
 */
export class AnnouncementIntake {
  readonly #directory: Directory
  readonly #onEvent: (event: NodeEvent) => void
  /** Of authors whose signatures were right: nobody can use up another one's. */
  readonly #buckets = new Map<string, Bucket>()

  constructor({ directory, onEvent }: IntakeComponents) {
    this.#directory = directory
    this.#onEvent = onEvent
  }

  /**
   * @param data - an envelope; not kept
   * @param options.from - peer id of who sent it here
   * @param options.ageMs - how old the sender says that it is
   */
  async offer(
    data: Uint8Array,
    { from, nowMs, ageMs }: { from: string; nowMs: number; ageMs: number },
  ): Promise<Verdict> {
    const envelope = parsed(data)
    if (envelope === null) return 'reject'
    const { author, announcement } = envelope
    if (this.#directory.weigh(author, announcement) !== 'news') return this.#ofNoUse(author, from, nowMs)
    if (this.#buckets.get(author)?.isEmpty(nowMs) === true) return this.#ofNoUse(author, from, nowMs)
    // A farewell is news however old; what has expired on its way says nothing of now.
    if (announcement.validMs > 0 && ageMs >= announcement.validMs) return 'ignore'
    if (!(await envelope.verify())) return 'reject'
    // Another copy may have come while this one's signature was checked.
    if (this.#directory.weigh(author, announcement) !== 'news') return 'ignore'
    this.#bucket(author, nowMs).take(nowMs)
    const event = this.#directory.take(envelope, { nowMs, ageMs })
    if (event !== null) this.#onEvent(event)
    return 'accept'
  }

  /** Counts what a peer sends in its own name beyond what is taken in: others' is not its fault. */
  #ofNoUse(author: string, from: string, nowMs: number): Verdict {
    const isFlood = author === from && this.#buckets.get(author)?.isFlood(nowMs) === true
    return isFlood ? 'reject' : 'ignore'
  }

  #bucket(author: string, nowMs: number): Bucket {
    const bucket = this.#buckets.get(author) ?? new Bucket(nowMs)
    // The one used last is the last to go; one that is gone was mostly full.
    this.#buckets.delete(author)
    this.#buckets.set(author, bucket)
    const [oldest] = this.#buckets.keys()
    if (this.#buckets.size > MAX_BUCKETS && oldest !== undefined) this.#buckets.delete(oldest)
    return bucket
  }
}

/** Tokens of one author, filled up by time. */
class Bucket {
  #tokens = BURST
  #floodTokens = FLOOD_BURST
  #atMs: number

  constructor(nowMs: number) {
    this.#atMs = nowMs
  }

  isEmpty(nowMs: number): boolean {
    this.#fill(nowMs)
    return this.#tokens < 1
  }

  take(nowMs: number): void {
    this.#fill(nowMs)
    this.#tokens--
    this.#floodTokens--
  }

  /** Counts one that was of no use. */
  isFlood(nowMs: number): boolean {
    this.#fill(nowMs)
    if (this.#floodTokens < 1) return true
    this.#floodTokens--
    return false
  }

  #fill(nowMs: number): void {
    const seconds = Math.max(0, nowMs - this.#atMs) / 1000
    this.#atMs = nowMs
    this.#tokens = Math.min(BURST, this.#tokens + seconds * TOKENS_PER_S)
    this.#floodTokens = Math.min(FLOOD_BURST, this.#floodTokens + seconds * FLOOD_PER_S)
  }
}

function parsed(data: Uint8Array): ParsedEnvelope | null {
  try {
    return parseEnvelope(data)
  } catch (error) {
    if (error instanceof DroverError) return null
    throw error
  }
}
