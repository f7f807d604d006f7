/**
 * How hard to compress: the level at which a batch is through soonest, when
 * one batch is compressed while the one before it is on the link, and the link
 * soonest free for others. Per byte:
 *
 *     ms(level) = max(compressing(level), share(level) ÷ link) + share(level) ÷ link
 *
 * so a fast link gets pages as they are (level 0) and a slow one gets as small
 * ones as there is time for while it is busy with the last.
 *
 * What a level costs and gains on this machine and this guest is measured as
 * it is used. One that was not used yet is judged by the nearest that was, and
 * by what levels do to text and code relative to each other: the table.
 */
const LEVELS = [
  { level: 0, relativeMs: 0, relativeShare: 1 },
  // zstd 1.5 on guest memory, one core: 1 ms and 0.31 of the size for a MiB at level 1 … 4 ms at level 6.
  { level: 1, relativeMs: 1, relativeShare: 1 },
  { level: 3, relativeMs: 1.6, relativeShare: 0.97 },
  { level: 6, relativeMs: 5, relativeShare: 0.92 },
  { level: 9, relativeMs: 8, relativeShare: 0.9 },
] as const

/** What level 1 is taken to do before anything was measured: 400 MB/s, a third of the size. */
const PRIOR = { msPerByte: 1 / 400_000, share: 1 / 3 }

/** A level must promise so much less time than the one in use: else they take turns, for nothing. */
const WORTH_CHANGING = 0.95
/** Weight of the newest batch in what is known of a level. */
const NEWEST = 0.3

interface Known {
  msPerByte: number
  share: number
}

/** A level of zstd, and whoever wants to know what it did. */
export interface Compression {
  readonly level: number
  /** Notes what compressing `inputBytes` to `outputBytes` took. */
  observe(inputBytes: number, outputBytes: number, ms: number): void
}

/**
 * For a first round of one batch, while the destination's QEMU is only starting:
 * of an idle clone's 151 pages it makes 7.4 KB in 5 ms, level 3 8.5 KB in 1.4.
 */
export const PATIENT: Compression = { level: 12, observe: () => {} }

export class CompressionChoice implements Compression {
  /** In use; 0: don't compress. */
  level: number = 1
  readonly #known = new Map<number, Known>()

  observe(inputBytes: number, outputBytes: number, ms: number): void {
    if (inputBytes === 0) return
    const now = { msPerByte: ms / inputBytes, share: outputBytes / inputBytes }
    const before = this.#known.get(this.level) ?? now
    const mean = (key: keyof Known) => before[key] + (now[key] - before[key]) * NEWEST
    this.#known.set(this.level, { msPerByte: mean('msPerByte'), share: mean('share') })
  }

  /**
   * Chooses the level of the next batch.
   *
   * @param linkBytesPerMs - what the link was found to carry; null when it has not been the bottleneck yet: the level
   *   stays then
   */
  choose(linkBytesPerMs: number | null): number {
    if (linkBytesPerMs === null) return this.level
    const predictedMs = (level: number): number => {
      const { msPerByte, share } = this.#predict(level)
      const onLinkMs = share / linkBytesPerMs
      // On few cores what sends takes them from what compresses, too, and seems to make that slow.
      return Math.max(msPerByte, onLinkMs) + onLinkMs
    }
    const best = LEVELS.reduce((a, b) => (predictedMs(b.level) < predictedMs(a.level) ? b : a)).level
    if (predictedMs(best) < predictedMs(this.level) * WORTH_CHANGING) this.level = best
    return this.level
  }

  #predict(level: number): Known {
    if (level === 0) return { msPerByte: 0, share: 1 }
    const known = this.#known.get(level)
    if (known !== undefined) return known
    const nearest = [...this.#known.keys()].sort((a, b) => Math.abs(a - level) - Math.abs(b - level))[0]
    const [base, baseLevel] = nearest === undefined ? [PRIOR, 1] : [this.#known.get(nearest)!, nearest]
    const [from, to] = [rowOf(baseLevel), rowOf(level)]
    return {
      msPerByte: (base.msPerByte * to.relativeMs) / from.relativeMs,
      share: (base.share * to.relativeShare) / from.relativeShare,
    }
  }
}

function rowOf(level: number): (typeof LEVELS)[number] {
  return LEVELS.find((row) => row.level === level)!
}
