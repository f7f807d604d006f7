import { readFile, stat } from 'node:fs/promises'
import type { TemplateId, TemplateManifest } from '../domain/template.ts'
import { TemplateError } from './errors.ts'
import { CHUNK_HASHES_BYTES } from './hashing.ts'
import { countChunks, draftFiles, partSpans, sealedFiles } from './layout.ts'
import { decodeManifest, MAX_MANIFEST_BYTES, templateId } from './manifest.ts'

export interface LoadedTemplate {
  manifest: TemplateManifest
  manifestBytes: Uint8Array
  /** When it was sealed, as far as its files know. */
  sealedAtMs: number
}

/**
 * A sealed template as its directory shows it: the manifest is hashed, of the other files only the sizes are checked.
 *
 * @throws TemplateError TEMPLATE_DAMAGED
 */
export async function loadTemplate(dir: string, id: TemplateId): Promise<LoadedTemplate> {
  const path = draftFiles(dir).manifest
  const found = await stat(path).catch(() => null)
  if (found === null || found.size > MAX_MANIFEST_BYTES) throw damaged(id, 'it has no manifest')
  const manifestBytes = await readFile(path).catch((cause: unknown) => {
    throw damaged(id, 'its manifest cannot be read', cause)
  })
  if (templateId(manifestBytes) !== id) throw damaged(id, 'its manifest is not the one that it is named by')
  const manifest = decode(id, manifestBytes)
  await checkSizes(dir, id, manifest)
  return { manifest, manifestBytes, sealedAtMs: found.mtimeMs }
}

async function checkSizes(dir: string, id: TemplateId, manifest: TemplateManifest): Promise<void> {
  const files = sealedFiles(dir, manifest)
  const expected: [file: string, path: string, sizeBytes: number][] = [
    ...partSpans(manifest).map(({ part, sizeBytes }): [string, string, number] => [
      part,
      files[part]!,
      sizeBytes,
    ]),
    ['page-hashes', files.pageHashes, countChunks(manifest) * CHUNK_HASHES_BYTES],
  ]
  for (const [file, path, sizeBytes] of expected) {
    const found = await stat(path).catch(() => null)
    if (found === null) throw damaged(id, `its ${file} file is missing`)
    if (found.size !== sizeBytes)
      throw damaged(id, `its ${file} file has ${found.size} bytes instead of ${sizeBytes}`)
  }
}

function decode(id: TemplateId, manifestBytes: Uint8Array): TemplateManifest {
  try {
    return decodeManifest(manifestBytes)
  } catch (cause) {
    throw damaged(id, 'its manifest is not one that this version of drover knows', cause)
  }
}

function damaged(id: TemplateId, reason: string, cause?: unknown): TemplateError {
  return new TemplateError(
    'TEMPLATE_DAMAGED',
    `template ${id} can't be used: ${reason}; \`drover template rm\` it and pull or create it again`,
    { cause, details: { id, reason } },
  )
}
