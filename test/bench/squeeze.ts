import { constants, zstdCompressSync } from 'node:zlib'
import { PAGE_BYTES } from '../../src/domain/page.ts'

/** Pages are compressed together in pieces of this size: what drover puts in one frame. */
const PIECE_BYTES = 1024 ** 2

export function zstdBytes(bytes: Uint8Array): number {
  return zstdCompressSync(bytes, { params: { [constants.ZSTD_c_compressionLevel]: 1 } }).length
}

/** How small zstd level 1 makes pages that are given one after the other. */
export class Squeeze {
  readonly #piece = Buffer.alloc(PIECE_BYTES)
  #filledBytes = 0
  #compressedBytes = 0
  pages = 0

  add(page: Uint8Array): void {
    this.#piece.set(page, this.#filledBytes)
    this.#filledBytes += PAGE_BYTES
    this.pages++
    if (this.#filledBytes === PIECE_BYTES) this.#flush()
  }

  /** Compressed bytes of all pages so far. */
  end(): number {
    if (this.#filledBytes > 0) this.#flush()
    return this.#compressedBytes
  }

  #flush(): void {
    this.#compressedBytes += zstdBytes(this.#piece.subarray(0, this.#filledBytes))
    this.#filledBytes = 0
  }
}
