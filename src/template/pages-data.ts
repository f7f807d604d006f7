import { promisify } from 'node:util'
import { constants, zstdCompress, zstdDecompress } from 'node:zlib'
import { looksRandom } from '../codec/index.ts'
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

/** Pages as they travel: compressed where that makes them smaller. What looks random isn't even tried. */
export async function encodePages(pages: Buffer): Promise<{ pages: Buffer; compressed: boolean }> {
  if (isMostlyRandom(pages)) return { pages, compressed: false }
  const smaller = await compressBytes(pages)
  return smaller.length < pages.length ? { pages: smaller, compressed: true } : { pages, compressed: false }
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
 * What a checked message stands for; never allocates more than it should be.
 *
 * @param sizeBytes - at most CHUNK_BYTES
 * @returns a copy, or null when it isn't of that size
 */
export async function decodePages(
  { pages, compressed }: { pages: Uint8Array; compressed: boolean },
  sizeBytes: number,
): Promise<Buffer | null> {
  if (compressed) return decompressBytes(pages, sizeBytes)
  return pages.length === sizeBytes ? Buffer.from(pages) : null
}

/** @returns null when it isn't zstd, or not of that size: a bomb is stopped at the bound */
export async function decompressBytes(compressed: Uint8Array, sizeBytes: number): Promise<Buffer | null> {
  if (sizeBytes === 0) return null
  try {
    const bytes = await decompress(compressed, { maxOutputLength: sizeBytes, chunkSize: OUTPUT_BYTES })
    return bytes.length === sizeBytes ? bytes : null
  } catch {
    return null
  }
}
