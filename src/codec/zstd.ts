import { constants, zstdCompressSync, zstdDecompressSync } from 'node:zlib'

/** What zstd may be given beside data. */
export interface ZstdOptions {
  dictionary?: Uint8Array
}

/**
 * Compresses on this thread: for worker threads, which save themselves the way
 * through libuv's.
 */
export function compressHere(data: Uint8Array, level: number, { dictionary }: ZstdOptions = {}): Uint8Array {
  return zstdCompressSync(data, {
    params: { [constants.ZSTD_c_compressionLevel]: level },
    // One piece of output: with zlib's 16 KiB it would be gathered from up to 64.
    chunkSize: Math.max(data.length, MIN_CHUNK_BYTES),
    ...(dictionary === undefined ? {} : { dictionary }),
  })
}

/**
 * @param bytes - what it must decompress to; nothing larger is allocated
 * @throws what zlib throws; a result of another length is the caller's to refuse
 */
export function decompressHere(
  data: Uint8Array,
  bytes: number,
  { dictionary }: ZstdOptions = {},
): Uint8Array {
  return zstdDecompressSync(data, {
    maxOutputLength: bytes,
    chunkSize: Math.max(bytes, MIN_CHUNK_BYTES),
    ...(dictionary === undefined ? {} : { dictionary }),
  })
}

/** zlib takes no chunk below 64 bytes, and small ones cost more than they save. */
const MIN_CHUNK_BYTES = 4096
