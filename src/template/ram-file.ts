import { type FileHandle, open } from 'node:fs/promises'
import { CHUNK_BYTES, isZeroPage, PAGE_BYTES } from '../domain/page.ts'
import { TemplateError } from './errors.ts'

/** A chunk of a RAM file. `bytes` is valid until the next one is asked for. */
export interface RamChunk {
  chunk: number
  bytes: Uint8Array
}

/**
 * Reads chunks of a RAM file in order, the next one while the caller works on this one.
 *
 * @param range - `first` up to, not including, `end`
 * @throws TemplateError TEMPLATE_DAMAGED when the file ends early
 */
export async function* readChunks(
  path: string,
  range: { first: number; end: number },
  signal: AbortSignal,
): AsyncGenerator<RamChunk> {
  await using file = await open(path)
  const buffers = [Buffer.allocUnsafe(CHUNK_BYTES), Buffer.allocUnsafe(CHUNK_BYTES)]
  const read = (chunk: number): Promise<Buffer> => readChunk(file, chunk, buffers[chunk % 2]!)
  let next: Promise<Buffer> | null = null
  try {
    for (let chunk = range.first; chunk < range.end; chunk++) {
      signal.throwIfAborted()
      const bytes = await (next ?? read(chunk))
      next = chunk + 1 < range.end ? read(chunk + 1) : null
      // It fails while nobody awaits it yet: the next turn of the loop does.
      next?.catch(() => {})
      yield { chunk, bytes }
    }
  } finally {
    await next?.catch(() => {})
  }
}

async function readChunk(file: FileHandle, chunk: number, buffer: Buffer): Promise<Buffer> {
  let filled = 0
  while (filled < CHUNK_BYTES) {
    const { bytesRead } = await file.read(buffer, filled, CHUNK_BYTES - filled, chunk * CHUNK_BYTES + filled)
    if (bytesRead === 0) throw new TemplateError('TEMPLATE_DAMAGED', `RAM file ends in chunk ${chunk}`)
    filled += bytesRead
  }
  return buffer
}

/**
 * Writes bytes to a file that reads as zeros there, leaving holes for pages of zeros.
 *
 * @param position - offset in the file
 */
export async function writeSparse(file: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (const { start, end } of dataRuns(bytes)) {
    for (let at = start; at < end; ) {
      const { bytesWritten } = await file.write(bytes, at, end - at, position + at)
      at += bytesWritten
    }
  }
}

/** Byte ranges of consecutive pages that aren't zero; a last page may be short. */
function* dataRuns(bytes: Uint8Array): Generator<{ start: number; end: number }> {
  let start = -1
  for (let at = 0; at < bytes.length; at += PAGE_BYTES) {
    const page = bytes.subarray(at, at + PAGE_BYTES)
    const isHole = page.length === PAGE_BYTES && isZeroPage(page)
    if (isHole && start >= 0) yield { start, end: at }
    if (isHole) start = -1
    else if (start < 0) start = at
  }
  if (start >= 0) yield { start, end: bytes.length }
}
