import type { FileHandle } from 'node:fs/promises'
import { TemplateError } from './errors.ts'

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
