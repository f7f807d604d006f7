import { isZeroPage, PAGE_BYTES } from '../domain/page.ts'

/**
 * How a page travels.
 *
 * - `zero`, `template`: nothing but the index; the destination has the content.
 * - `raw`: content as it is, where zstd would not gain.
 * - `zstd`: content, then zstd.
 * - `delta`: content, zstd with the template's pages of the same indices as
 *   dictionary: what a clone changed in a page, and what moved between pages.
 *   Of an idle clone's 151 such pages it makes 8.5 KB; XOR with the template's
 *   page, then zstd, makes 17.4 KB of them.
 * - `reference`: the hash of a page that the destination has elsewhere.
 */
export const ENCODINGS = ['zero', 'template', 'raw', 'zstd', 'delta', 'reference'] as const
export type Encoding = (typeof ENCODINGS)[number]

const WORDS = PAGE_BYTES / 4

/**
 * Up to this many of a page's 1024 words may differ from the template for it
 * to be sent as a difference. Above half, it compresses as well by itself, and
 * without the cost of a dictionary.
 */
const MAX_DELTA_WORDS = WORDS / 2

/**
 * What begins so is no plain dictionary to zstd but one with tables of its own
 * (RFC 8878, section 5), and compressing fails where it has none: a file of
 * that kind in the guest's page cache must not keep a VM from moving.
 */
const DICTIONARY_MAGIC = Buffer.from([0x37, 0xa4, 0x30, 0xec])

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
export function classifyPage(content: Uint8Array, template: Uint8Array): Exclude<Encoding, 'reference'> {
  if (isZeroPage(content)) return 'zero'
  const differing = differingWords(content, template, MAX_DELTA_WORDS)
  if (differing === 0) return 'template'
  // There is nothing to differ from in a page of zeros.
  if (differing <= MAX_DELTA_WORDS && isPlainDictionary(template) && !isZeroPage(template)) return 'delta'
  return looksRandom(content) ? 'raw' : 'zstd'
}

/** Whether bytes can be a dictionary as they are. */
export function isPlainDictionary(bytes: Uint8Array): boolean {
  return DICTIONARY_MAGIC.compare(bytes, 0, DICTIONARY_MAGIC.length) !== 0
}
