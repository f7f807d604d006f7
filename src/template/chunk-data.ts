import { promisify } from 'node:util'
import { constants, zstdCompress, zstdDecompress } from 'node:zlib'
import { CHUNK_BYTES, CHUNK_PAGES, isZeroPage, PAGE_BYTES } from '../domain/page.ts'
import type { ChunkData } from '../wire/template-messages.ts'

const compress = promisify(zstdCompress)
const decompress = promisify(zstdDecompress)

/** The fastest of the usual levels: the peer's disk and link are waiting. */
const COMPRESSION_LEVEL = 1

/**
 * zlib's output buffer. With its default of 16 KiB a chunk would visit libuv's
 * threads 64 times; without room to spare, zlib would allocate a second one.
 */
const OUTPUT_BYTES = CHUNK_BYTES + 16 * 1024

/**
 * A chunk as it travels. Copies before its first wait: `bytes` may be reused at
 * once. Compression runs on libuv's threads.
 *
 * @param bytes - CHUNK_BYTES of guest memory
 */
export async function encodeChunk(chunk: number, bytes: Uint8Array): Promise<ChunkData> {
  const offsets = nonZeroPages(bytes)
  const pageOffsets = Uint8Array.from(offsets)
  const pages = Buffer.allocUnsafe(offsets.length * PAGE_BYTES)
  for (const [i, offset] of offsets.entries()) pages.set(pageAt(bytes, offset), i * PAGE_BYTES)
  if (offsets.length === 0) return { chunk, pageOffsets, pages, compressed: false }
  const smaller = await compress(pages, {
    params: { [constants.ZSTD_c_compressionLevel]: COMPRESSION_LEVEL },
    chunkSize: OUTPUT_BYTES,
  })
  if (smaller.length >= pages.length) return { chunk, pageOffsets, pages, compressed: false }
  return { chunk, pageOffsets, pages: smaller, compressed: true }
}

/**
 * The memory that a checked message stands for; never allocates more than a chunk.
 *
 * @returns CHUNK_BYTES, perhaps a view on the message, or null when the compressed pages aren't as many as the message says
 */
export async function decodeChunk(data: ChunkData): Promise<Uint8Array | null> {
  const pagesBytes = data.pageOffsets.length * PAGE_BYTES
  const pages = data.compressed ? await decompressTo(data.pages, pagesBytes) : data.pages
  if (pages === null || data.pageOffsets.length === CHUNK_PAGES) return pages
  const bytes = new Uint8Array(CHUNK_BYTES)
  for (const [i, page] of data.pageOffsets.entries()) {
    bytes.set(pageAt(pages, i), page * PAGE_BYTES)
  }
  return bytes
}

function nonZeroPages(bytes: Uint8Array): number[] {
  const offsets: number[] = []
  for (let page = 0; page < CHUNK_PAGES; page++) if (!isZeroPage(pageAt(bytes, page))) offsets.push(page)
  return offsets
}

function pageAt(bytes: Uint8Array, page: number): Uint8Array {
  return bytes.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES)
}

async function decompressTo(compressed: Uint8Array, sizeBytes: number): Promise<Uint8Array | null> {
  if (sizeBytes === 0) return null
  try {
    const bytes = await decompress(compressed, { maxOutputLength: sizeBytes, chunkSize: OUTPUT_BYTES })
    return bytes.length === sizeBytes ? bytes : null
  } catch {
    // Not zstd, or a bomb: zlib stopped at the bound.
    return null
  }
}
