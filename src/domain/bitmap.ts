import type { PageIndex } from './page.ts'

/** A run of consecutive pages: `first` up to, not including, `end`. */
export interface PageRun {
  first: PageIndex
  end: PageIndex
}

/** A fixed-size set of page indices, one bit each (512 MiB of guest: 16 KiB). */
export class PageBitmap {
  readonly pages: number
  readonly #words: Uint32Array<ArrayBuffer>

  /** @param pages - how many pages the guest has; indices run from 0 to pages - 1. */
  constructor(pages: number) {
    this.pages = pages
    this.#words = new Uint32Array(Math.ceil(pages / 32))
  }

  /** The bitmap that `words` was taken of, in another thread perhaps. */
  static of(pages: number, words: Uint32Array): PageBitmap {
    const bitmap = new PageBitmap(pages)
    bitmap.#words.set(words)
    return bitmap
  }

  static from(pages: number, indices: Iterable<PageIndex>): PageBitmap {
    const bitmap = new PageBitmap(pages)
    for (const index of indices) bitmap.add(index)
    return bitmap
  }

  /** @throws RangeError when the index lies outside the guest. */
  add(index: PageIndex): void {
    if (!Number.isInteger(index) || index < 0 || index >= this.pages) {
      throw new RangeError(`page ${index} is outside 0..${this.pages - 1}`)
    }
    this.#words[index >>> 5]! |= 1 << (index & 31)
  }

  delete(index: PageIndex): void {
    if (index >= 0 && index < this.pages) this.#words[index >>> 5]! &= ~(1 << (index & 31))
  }

  has(index: PageIndex): boolean {
    return index >= 0 && index < this.pages && (this.#words[index >>> 5]! & (1 << (index & 31))) !== 0
  }

  /** Adds every page of `other`, which must be of the same size. */
  addAll(other: PageBitmap): void {
    this.#sameSize(other)
    for (let i = 0; i < this.#words.length; i++) this.#words[i]! |= other.#words[i]!
  }

  /** Pages that are here and not in `other`. */
  without(other: PageBitmap): PageBitmap {
    this.#sameSize(other)
    const result = new PageBitmap(this.pages)
    for (let i = 0; i < this.#words.length; i++) result.#words[i] = this.#words[i]! & ~other.#words[i]!
    return result
  }

  /** A copy of the bits, page 0 the lowest bit of the first word. */
  words(): Uint32Array<ArrayBuffer> {
    return this.#words.slice()
  }

  clone(): PageBitmap {
    const result = new PageBitmap(this.pages)
    result.#words.set(this.#words)
    return result
  }

  /** How many pages are in the set. */
  get count(): number {
    let total = 0
    for (const word of this.#words) {
      // Population count, Warren, "Hacker's Delight", figure 5-2.
      let x = word - ((word >>> 1) & 0x55555555)
      x = (x & 0x33333333) + ((x >>> 2) & 0x33333333)
      total += (((x + (x >>> 4)) & 0x0f0f0f0f) * 0x01010101) >>> 24
    }
    return total
  }

  /** Indices in ascending order. */
  *[Symbol.iterator](): Generator<PageIndex> {
    for (let i = 0; i < this.#words.length; i++) {
      let word = this.#words[i]!
      while (word !== 0) {
        const bit = 31 - Math.clz32(word & -word)
        yield i * 32 + bit
        word &= word - 1
      }
    }
  }

  /** Consecutive pages joined, ascending; runs longer than `maxPages` are cut. */
  *runs(maxPages: number): Generator<PageRun> {
    let first = -1
    let end = -1
    for (const index of this) {
      if (index === end && end - first < maxPages) {
        end++
        continue
      }
      if (first >= 0) yield { first, end }
      first = index
      end = index + 1
    }
    if (first >= 0) yield { first, end }
  }

  /** The first run of pages from `from` on, cut at `maxPages`; null when there is none. */
  runFrom(from: PageIndex, maxPages: number): PageRun | null {
    let first = from
    // Whole words without a bit are stepped over: most of a large guest is.
    while (first < this.pages && !this.has(first)) {
      first = (first & 31) === 0 && this.#words[first >>> 5] === 0 ? first + 32 : first + 1
    }
    if (first >= this.pages) return null
    let end = first + 1
    while (end < this.pages && end - first < maxPages && this.has(end)) end++
    return { first, end }
  }

  #sameSize(other: PageBitmap): void {
    if (other.pages !== this.pages) throw new RangeError(`bitmaps of ${this.pages} and ${other.pages} pages`)
  }
}
