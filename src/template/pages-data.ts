import { promisify } from 'node:util'
import { constants, zstdCompress, zstdDecompress } from 'node:zlib'
import { classifyPage, isPlainDictionary, looksRandom, MIN_DELTA_LEVEL } from '../codec/index.ts'
import { CHUNK_BYTES, PAGE_BYTES } from '../domain/page.ts'

const compress = promisify(zstdCompress)
const decompress = promisify(zstdDecompress)

/** The fastest of the usual levels, and within 1 % of level 3 on guest memory: disk and link are waiting. */
const COMPRESSION_LEVEL = 1

/**
 * zlib's output buffer. With its default of 16 KiB a chunk would visit libuv's
 * threads 64 times; without room to spare, zlib would allocate a second one.
 */
const OUTPUT_BYTES = CHUNK_BYTES + 16 * 1024

/** zstd on libuv's threads, whatever comes of it. */
export function compressBytes(bytes: Uint8Array): Promise<Buffer> {
  return compress(bytes, {
    params: { [constants.ZSTD_c_compressionLevel]: COMPRESSION_LEVEL },
    chunkSize: OUTPUT_BYTES,
  })
}

/** With another dictionary zstd would decompress to other bytes of the right length, and say nothing: a checksum tells. */
function compressDifference(bytes: Uint8Array, dictionary: Uint8Array): Promise<Buffer> {
  return compress(bytes, {
    params: { [constants.ZSTD_c_compressionLevel]: MIN_DELTA_LEVEL, [constants.ZSTD_c_checksumFlag]: 1 },
    dictionary,
    chunkSize: OUTPUT_BYTES,
  })
}

/**
 * Pages as they travel: compressed where that makes them smaller. What looks random isn't even tried.
 *
 * @param similar - as many pages that the reader has: where most are much the same, differences travel
 */
export async function encodePages(pages: Buffer, similar: Buffer | null = null): Promise<PagesData> {
  if (similar !== null && isPlainDictionary(similar) && areMostlyLike(pages, similar)) {
    return { pages: await compressDifference(pages, similar), compressed: true, byDifference: true }
  }
  const asTheyAre = { pages, compressed: false }
  if (isMostlyRandom(pages)) return asTheyAre
  const smaller = await compressBytes(pages)
  return smaller.length < pages.length ? { ...asTheyAre, pages: smaller, compressed: true } : asTheyAre
}

/** See Pages in `template.proto`. */
interface PagesData {
  pages: Uint8Array
  compressed: boolean
  byDifference?: boolean
}

/** Of pages that have nothing in common a dictionary makes work, and no less bytes. */
function areMostlyLike(pages: Buffer, similar: Buffer): boolean {
  let like = 0
  for (let at = 0; at < pages.length; at += PAGE_BYTES) {
    const encoding = classifyPage(pages.subarray(at, at + PAGE_BYTES), similar.subarray(at, at + PAGE_BYTES))
    if (encoding === 'delta' || encoding === 'template') like++
  }
  return 2 * like * PAGE_BYTES >= pages.length
}

/** All but so many in a hundred pages: the few that would get smaller are not worth 3 ms and 2 MiB of garbage. */
const RANDOM_SHARE = 0.99

function isMostlyRandom(pages: Buffer): boolean {
  const count = pages.length / PAGE_BYTES
  let others = 0
  for (let at = 0; at < pages.length; at += PAGE_BYTES) {
    if (!looksRandom(pages.subarray(at, at + PAGE_BYTES)) && ++others > count * (1 - RANDOM_SHARE))
      return false
  }
  return true
}

/**
 * What a checked message stands for, one without a difference; never allocates more than it should be.
 *
 * @param sizeBytes - at most CHUNK_BYTES
 * @returns a copy, or null when it isn't of that size
 */
export async function decodePages(
  { pages, compressed }: Pick<PagesData, 'pages' | 'compressed'>,
  sizeBytes: number,
): Promise<Buffer | null> {
  if (compressed) return decompressBytes(pages, sizeBytes)
  return pages.length === sizeBytes ? Buffer.from(pages) : null
}

/** @returns null when it isn't zstd, or not of that size: a bomb is stopped at the bound */
export async function decompressBytes(
  compressed: Uint8Array,
  sizeBytes: number,
  options: { dictionary?: Uint8Array } = {},
): Promise<Buffer | null> {
  if (sizeBytes === 0) return null
  try {
    const bytes = await decompress(compressed, {
      ...options,
      maxOutputLength: sizeBytes,
      chunkSize: OUTPUT_BYTES,
    })
    return bytes.length === sizeBytes ? bytes : null
  } catch {
    return null
  }
}
