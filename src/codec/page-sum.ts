import { createHash } from 'node:crypto'
import { PAGE_BYTES } from '../domain/page.ts'

/**
 * NH, the universal hash of UMAC (Black, Halevi, Krawczyk, Krovetz, Rogaway,
 * CRYPTO '99). For words x of a page and k of a key, each 32 bits, of which
 * sums keep 32 bits and products 64, over all blocks of 8 words:
 *
 *     (x0 + k0) × (x4 + k4) + (x1 + k1) × (x5 + k5) + (x2 + k2) × (x6 + k6) + (x3 + k3) × (x7 + k7)
 *
 * Of any two pages, sums differ by any one number under no more than 2^-32 of
 * all keys. WebAssembly, for its vectors: 0.25 µs a page. Its memory holds the
 * page, and the key behind it.
 */
const PROGRAM = `
  0061736d 01000000                    ; magic, version
  01 05 01 60 00 01 7e                 ; type 0: () → i64
  03 02 01 00                          ; function 0, of type 0
  05 03 01 00 01                       ; memory of 64 KiB
  07 09 02 016d 02 00 0168 00 00       ; exports: memory m, function h
  0a 5f 01 5d 02 01 7f 03 7b           ; the function, with locals at: i32; sum, x, y: v128
  03 40                                ; loop
  20 00 fd000400 20 00 fd00048020      ;   load at; load at + 4096
  fdae01 21 02                         ;   x = i32x4.add
  20 00 fd000410 20 00 fd00049020      ;   load at + 16; load at + 4112
  fdae01 21 03                         ;   y = i32x4.add
  20 01 20 02 20 03 fdde01 fdce01      ;   sum + i64x2.extmul_low_i32x4_u(x, y)
  20 02 20 03 fddf01 fdce01 21 01      ;   sum = that + i64x2.extmul_high_i32x4_u(x, y)
  20 00 41 20 6a 22 00                 ;   at += 32
  41 8020 49 0d 00 0b                  ;   again while at < 4096
  20 01 fd1d00 20 01 fd1d01 7c 0b      ; lane 0 of sum + lane 1 of sum
`

/** Of what Node has and its types leave to browsers. */
declare const WebAssembly: {
  Module: new (bytes: Uint8Array) => object
  Instance: new (module: object) => { exports: { m: { buffer: ArrayBuffer }; h: () => bigint } }
}

const bytes = Buffer.from(PROGRAM.replaceAll(/;.*|\s/g, ''), 'hex')
const { m: memory, h: sum } = new WebAssembly.Instance(new WebAssembly.Module(bytes)).exports
const page = new Uint8Array(memory.buffer, 0, PAGE_BYTES)
const key = new Uint8Array(memory.buffer, PAGE_BYTES, PAGE_BYTES)
/** Whose key it is. Shared by all of a thread: there is always one, and mostly the same. */
let user: PageSum | null = null

/** Sums of pages under one key. */
export class PageSum {
  readonly #key: Uint8Array

  /** @param seed - 32 bits, secret to who writes the pages */
  constructor(seed: number) {
    const seedBytes = Buffer.alloc(4)
    seedBytes.writeUInt32LE(seed)
    this.#key = createHash('shake256', { outputLength: PAGE_BYTES }).update(seedBytes).digest()
  }

  /** @returns 64 bits, as a signed number */
  of(content: Uint8Array): bigint {
    if (user !== this) key.set(this.#key)
    user = this
    page.set(content)
    return sum()
  }
}
