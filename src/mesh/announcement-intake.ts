import { DroverError } from '../domain/errors.ts'
import { type ParsedEnvelope, parseEnvelope } from './announcement-envelope.ts'
import type { Directory, NodeEvent } from './directory.ts'
import { TokenBuckets } from './token-bucket.ts'

/**
 * What each author may say: as much as an announcer does that changes all the
 * time (MIN_INTERVAL_MS). Whoever sends us ten times that itself is no drover.
 */
const NEWS_RATE = { burst: 8, perSecond: 2 }
const FLOOD_RATE = { burst: 80, perSecond: 20 }
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
  readonly #news = new TokenBuckets(NEWS_RATE, { maxBuckets: MAX_BUCKETS })
  /** Of the same authors: news, and what was of no use. */
  readonly #flood = new TokenBuckets(FLOOD_RATE, { maxBuckets: MAX_BUCKETS })

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
    if (this.#news.existing(author)?.hasOne(nowMs) === false) return this.#ofNoUse(author, from, nowMs)
    // A farewell is news however old; what has expired on its way says nothing of now.
    if (announcement.validMs > 0 && ageMs >= announcement.validMs) return 'ignore'
    if (!(await envelope.verify())) return 'reject'
    // Another copy may have come while this one's signature was checked.
    if (this.#directory.weigh(author, announcement) !== 'news') return 'ignore'
    this.#news.take(author, nowMs)
    this.#flood.take(author, nowMs)
    const event = this.#directory.take(envelope, { nowMs, ageMs })
    if (event !== null) this.#onEvent(event)
    return 'accept'
  }

  /** Counts what a peer sends in its own name beyond what is taken in: others' is not its fault. */
  #ofNoUse(author: string, from: string, nowMs: number): Verdict {
    const isFlood = author === from && this.#flood.existing(author)?.take(nowMs) === false
    return isFlood ? 'reject' : 'ignore'
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
