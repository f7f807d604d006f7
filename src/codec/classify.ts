import { isZeroPage, PAGE_BYTES } from '../domain/page.ts'

/**
 * How a page travels.
 *
 * - `zero`, `template`: nothing but the index; the destination has the content.
 * - `xor`: difference to the template's page, which is mostly zeros, then zstd.
 * - `zstd`: content, then zstd.
 * - `raw`: content as it is, where zstd would not gain.
 */
export const ENCODINGS = ['zero', 'template', 'raw', 'zstd', 'xor'] as const
export type Encoding = (typeof ENCODINGS)[number]

const WORDS = PAGE_BYTES / 4

/**
 * Up to this many of a page's 1024 words may differ from the template for XOR
 * to be chosen. Above half, the content itself compresses better in most pages.
 */
const MAX_XOR_WORDS = WORDS / 2

/** Every 16th byte is looked at: 256 samples. */
const SAMPLE_STEP = 16

/**
 * Random bytes show about 162 different values among 256 samples (256 × (1 −
 * 1/e)), text and code fewer than 100. Above this zstd gains next to nothing.
 */
const MAX_COMPRESSIBLE_VALUES = 140

const seen = new Uint8Array(256)

/** Whether zstd would make anything of a page, guessed from a sample: 0.3 µs against 10 µs for trying. */
export function looksRandom(content: Uint8Array): boolean {
  seen.fill(0)
  let values = 0
  for (let i = 0; i < PAGE_BYTES; i += SAMPLE_STEP) {
    const byte = content[i + ((i >>> 4) & 15)]!
    if (seen[byte] === 0) {
      seen[byte] = 1
      values++
    }
  }
  return values > MAX_COMPRESSIBLE_VALUES
}

/** The page as 32-bit words; pages of a buffer made by one allocation are aligned. */
function words(page: Uint8Array): Uint32Array {
  if (page.byteOffset % 4 === 0) return new Uint32Array(page.buffer, page.byteOffset, WORDS)
  return new Uint32Array(Uint8Array.from(page).buffer)
}

/** How many 32-bit words differ, counted up to `limit` + 1. */
function differingWords(a: Uint8Array, b: Uint8Array, limit: number): number {
  const left = words(a)
  const right = words(b)
  let differing = 0
  for (let i = 0; i < WORDS && differing <= limit; i++) if (left[i] !== right[i]) differing++
  return differing
}

/** Chooses the encoding of one page by a look at it and at the template's page of the same index. */
export function classifyPage(content: Uint8Array, template: Uint8Array): Encoding {
  if (isZeroPage(content)) return 'zero'
  const differing = differingWords(content, template, MAX_XOR_WORDS)
  if (differing === 0) return 'template'
  // Against a zero page XOR changes nothing: the content is compressed as it is.
  if (differing <= MAX_XOR_WORDS && !isZeroPage(template)) return 'xor'
  return looksRandom(content) ? 'raw' : 'zstd'
}

/** Writes `a` XOR `b` to `into`; all PAGE_BYTES long. XOR is its own inverse. */
export function xorPage(a: Uint8Array, b: Uint8Array, into: Uint8Array): void {
  const left = words(a)
  const right = words(b)
  const result = new Uint32Array(into.buffer, into.byteOffset, WORDS)
  for (let i = 0; i < WORDS; i++) result[i] = left[i]! ^ right[i]!
}
