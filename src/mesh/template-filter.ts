import { MAX_TEMPLATE_FILTER_BYTES } from '../wire/announcement-message.ts'

/**
 * A Bloom filter over the digests of templates: says of each template that is
 * in it that it may be there, and of others mostly that they aren't.
 *
 *     bits      at least 10 per template, a power of two, at most 16,384 (2 KiB)
 *     k = 7     bit i is the i-th 32-bit word (little-endian) of the digest, modulo the bits
 *
 * At 10 bits per template one in 120 others is taken for one that is there
 * ((1 - e^(-k/10))^k, Bloom 1970), and 2 KiB are enough of them for 1,638
 * templates; a node with 4,096 is asked in vain every fourth time. A digest is
 * a SHA-256, so its words are as good as seven hash functions.
 */
const BITS_PER_TEMPLATE = 10
const HASHES = 7
const MIN_FILTER_BYTES = 64

/** @param digests - 32 bytes each */
export function buildTemplateFilter(digests: readonly Uint8Array[]): Uint8Array {
  const wantedBytes = Math.ceil((digests.length * BITS_PER_TEMPLATE) / 8)
  let bytes = MIN_FILTER_BYTES
  while (bytes < wantedBytes && bytes < MAX_TEMPLATE_FILTER_BYTES) bytes *= 2
  const filter = new Uint8Array(bytes)
  for (const digest of digests) for (const bit of bitsOf(digest, bytes)) filter[bit >>> 3]! |= 1 << (bit & 7)
  return filter
}

/** Whether the template may be there; never false for one that is. */
export function filterHas(filter: Uint8Array, digest: Uint8Array): boolean {
  if (filter.length === 0) return false
  return bitsOf(digest, filter.length).every((bit) => (filter[bit >>> 3]! & (1 << (bit & 7))) !== 0)
}

function bitsOf(digest: Uint8Array, filterBytes: number): number[] {
  const words = new DataView(digest.buffer, digest.byteOffset, digest.byteLength)
  return Array.from({ length: HASHES }, (_, i) => words.getUint32(4 * i, true) % (filterBytes * 8))
}
