import { hash } from 'node:crypto'
import xxhash from 'xxhash-wasm'
import { PageBitmap } from '../domain/bitmap.ts'
import { type PageIndex, ZERO_PAGE } from '../domain/page.ts'
import { PageSum } from './page-sum.ts'

const { h64Raw } = await xxhash()

/**
 * What each page of a guest last held, as xxHash64 plus PageSum (1.1 µs a page;
 * 8 bytes a page, 1 MiB for 512 MiB of guest). The source tells by it which
 * pages changed, the destination keeps the same table of what it received, and
 * one digest over both shows that nothing differs.
 *
 * The seed is random for each move, and a guest must not prepare pages that
 * collide: a file that somebody has looked at and signed would be what it was
 * before. Of xxHash64 alone two such pages are easily made, whatever the seed:
 * the highest bit of a word flipped, and what cancels it 32 bytes further on.
 * PageSum keeps those apart; pages that nobody made so, xxHash64 does.
 */
export class PageHashes {
  readonly seed: number
  readonly #seed: bigint
  readonly #sum: PageSum
  readonly #zeroHash: bigint
  readonly #hashes: BigUint64Array
  /** Pages with a hash. */
  readonly known: PageBitmap

  constructor(pages: number, seed: number) {
    this.seed = seed
    this.#seed = BigInt(seed)
    this.#sum = new PageSum(seed)
    this.#zeroHash = this.#hash(ZERO_PAGE)
    this.#hashes = new BigUint64Array(pages)
    this.known = new PageBitmap(pages)
  }

  /** Notes what a page holds now. @returns whether that is new. */
  update(index: PageIndex, content: Uint8Array): boolean {
    const pageHash = content === ZERO_PAGE ? this.#zeroHash : this.#hash(content)
    if (this.known.has(index) && this.#hashes[index] === pageHash) return false
    this.#hashes[index] = pageHash
    this.known.add(index)
    return true
  }

  /** What `update` noted of a page that is known. */
  hashOf(index: PageIndex): bigint {
    return this.#hashes[index]!
  }

  /** Notes a hash that was made of a page with this seed, at another time or place. */
  set(index: PageIndex, pageHash: bigint): void {
    this.known.add(index)
    this.#hashes[index] = pageHash
  }

  /** The page counts as never seen. */
  forget(index: PageIndex): void {
    this.known.delete(index)
  }

  /** Whether the page held only zeros when it was last seen. */
  holdsZeros(index: PageIndex): boolean {
    return this.known.has(index) && this.#hashes[index] === this.#zeroHash
  }

  /**
   * SHA-256 over (index, hash) of each page in `pages`, ascending: index as 4
   * bytes, hash as 8 bytes, little-endian. 10,000 pages: about 3 ms.
   */
  digest(pages: PageBitmap): Uint8Array {
    const RECORD_BYTES = 12
    const records = Buffer.allocUnsafe(pages.count * RECORD_BYTES)
    let offset = 0
    for (const index of pages) {
      records.writeUInt32LE(index, offset)
      records.writeBigUInt64LE(this.#hashes[index]!, offset + 4)
      offset += RECORD_BYTES
    }
    return hash('sha256', records, 'buffer')
  }

  #hash(content: Uint8Array): bigint {
    return BigInt.asUintN(64, h64Raw(content, this.#seed) + this.#sum.of(content))
  }
}
