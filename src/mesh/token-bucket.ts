export interface Rate {
  /** Tokens that a bucket holds, and has at first. */
  burst: number
  perSecond: number
}

/** So many at once, and so many a second in the long run. */
export class TokenBucket {
  readonly #rate: Rate
  #tokens: number
  #atMs: number

  constructor(rate: Rate, nowMs: number) {
    this.#rate = rate
    this.#tokens = rate.burst
    this.#atMs = nowMs
  }

  hasOne(nowMs: number): boolean {
    const seconds = Math.max(0, nowMs - this.#atMs) / 1000
    this.#atMs = nowMs
    this.#tokens = Math.min(this.#rate.burst, this.#tokens + seconds * this.#rate.perSecond)
    return this.#tokens >= 1
  }

  /** @returns false when there is none; it stays empty then */
  take(nowMs: number): boolean {
    if (!this.hasOne(nowMs)) return false
    this.#tokens--
    return true
  }
}

/** A bucket for each of those who are met; the one used longest ago goes first when there are too many. */
export class TokenBuckets {
  readonly #rate: Rate
  readonly #maxBuckets: number
  readonly #buckets = new Map<string, TokenBucket>()

  constructor(rate: Rate, init: { maxBuckets: number }) {
    this.#rate = rate
    this.#maxBuckets = init.maxBuckets
  }

  /** The bucket of one who has taken before. */
  existing(key: string): TokenBucket | undefined {
    return this.#buckets.get(key)
  }

  /** @returns false when there is none left for `key` */
  take(key: string, nowMs: number): boolean {
    const bucket = this.#buckets.get(key) ?? new TokenBucket(this.#rate, nowMs)
    this.#buckets.delete(key)
    this.#buckets.set(key, bucket)
    const [oldest] = this.#buckets.keys()
    if (this.#buckets.size > this.#maxBuckets && oldest !== undefined) this.#buckets.delete(oldest)
    return bucket.take(nowMs)
  }
}
