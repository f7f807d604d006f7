import { readFile } from 'node:fs/promises'
import { CHUNK_BYTES } from '../domain/page.ts'
import type { TemplateId } from '../domain/template.ts'
import { TemplateError } from './errors.ts'
import { chunkHash, hashPages } from './hashing.ts'
import { partSpans } from './layout.ts'
import type { TemplateStore } from './store.ts'

/**
 * The bytes of a template's state file, checked against its manifest: the ROM
 * blocks that a move takes from it are covered by nothing else. Some 350 KB
 * take less than 1 ms.
 *
 * @throws TemplateError TEMPLATE_DAMAGED, TEMPLATE_NOT_FOUND
 */
export async function readTemplateState(store: TemplateStore, id: TemplateId): Promise<Buffer> {
  const { manifest } = store.get(id)
  const { firstChunk, endChunk, sizeBytes } = partSpans(manifest).find(({ part }) => part === 'state')!
  const bytes = await readFile(store.files(id).state)
  const padded = Buffer.alloc((endChunk - firstChunk) * CHUNK_BYTES)
  bytes.copy(padded)
  const isRight = (chunk: number): boolean => {
    const at = (chunk - firstChunk) * CHUNK_BYTES
    return chunkHash(hashPages(padded.subarray(at, at + CHUNK_BYTES))).equals(manifest.chunkHashes[chunk]!)
  }
  let areRight = bytes.length === sizeBytes
  for (let chunk = firstChunk; areRight && chunk < endChunk; chunk++) areRight = isRight(chunk)
  if (areRight) return bytes
  const reason = 'its state file is not what its manifest says'
  throw new TemplateError(
    'TEMPLATE_DAMAGED',
    `template ${id} can't be used: ${reason}; \`drover template verify\` repairs it from other nodes`,
    { details: { id, reason } },
  )
}
