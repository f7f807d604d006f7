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
  await readFully(file, buffer, chunk * CHUNK_BYTES)
  return buffer
}

/**
 * Fills a buffer from a file.
 *
 * @throws TemplateError TEMPLATE_DAMAGED when the file ends early
 */
export async function readFully(file: FileHandle, into: Uint8Array, position: number): Promise<void> {
  for (let filled = 0; filled < into.length; ) {
    const { bytesRead } = await file.read(into, filled, into.length - filled, position + filled)
    if (bytesRead === 0) {
      throw new TemplateError('TEMPLATE_DAMAGED', `a file ends at byte ${position + filled}, too early`)
    }
    filled += bytesRead
  }
}

/** Writes all of a buffer, holes or not. */
export async function writeFully(file: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let written = 0; written < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, written, bytes.length - written, position + written)
    written += bytesWritten
  }
}

/**
 * Writes bytes to a file that reads as zeros there, leaving holes for pages of zeros.
 *
 * @param position - offset in the file
 */
export async function writeSparse(file: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (const { start, end } of dataRuns(bytes)) {
    await writeFully(file, bytes.subarray(start, end), position + start)
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
