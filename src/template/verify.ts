import { type FileHandle, open, readFile, stat } from 'node:fs/promises'
import { CHUNK_BYTES, CHUNK_PAGES, type PageIndex } from '../domain/page.ts'
import type { TemplateManifest } from '../domain/template.ts'
import { TemplateContent } from './content.ts'
import { CHUNK_HASHES_BYTES, chunkHash, HASH_BYTES, hashPages } from './hashing.ts'
import { type PartSpan, partSpans, type TemplateFiles } from './layout.ts'

/** A file of a template that doesn't hold what it should. */
export interface DamagedFile {
  /** `ram`, `page-hashes`, `manifest` or one of TEMPLATE_FILES. */
  file: string
  /** Of a file of the right size: its pages that differ, ascending. All pages of a chunk whose page hashes are damaged too. */
  pages?: PageIndex[]
}

export interface VerifyResult {
  ok: boolean
  damaged: DamagedFile[]
}

export interface VerifyProgress {
  bytesDone: number
  bytesTotal: number
}

export interface VerifyOptions {
  signal: AbortSignal
  onProgress?: (progress: VerifyProgress) => void
}

/** What is checked: the manifest as it was when the store started, and the files that should agree with it. */
export interface VerifiableTemplate {
  files: TemplateFiles
  manifest: TemplateManifest
  manifestBytes: Uint8Array
}

/**
 * Reads and hashes everything that a template consists of, in pieces of 1 MiB:
 * each holds the event loop for about a millisecond.
 */
export async function verifyTemplate(
  template: VerifiableTemplate,
  options: VerifyOptions,
): Promise<VerifyResult> {
  const { files, manifest, manifestBytes } = template
  const { signal, onProgress } = options
  const parts = partSpans(manifest)
  const bytesTotal = parts.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)
  let bytesDone = 0
  const onBytes = (bytes: number): void => {
    bytesDone += bytes
    onProgress?.({ bytesDone, bytesTotal })
  }

  const damaged: DamagedFile[] = []
  if (!((await orUnreadable(readFile(files.manifest)))?.equals(manifestBytes) ?? false))
    damaged.push({ file: 'manifest' })
  await using pageHashesFile = await orUnreadable(open(files.pageHashes))
  let arePageHashesRight = pageHashesFile !== null
  for (const span of parts) {
    const found = await verifyPart(span, { files, manifest, pageHashesFile }, signal, onBytes)
    arePageHashesRight &&= found.arePageHashesRight
    if (found.pages === null) damaged.push({ file: span.part })
    else if (found.pages.length > 0) damaged.push({ file: span.part, pages: found.pages })
  }
  if (!arePageHashesRight) damaged.push({ file: 'page-hashes' })
  return { ok: damaged.length === 0, damaged }
}

/** @returns pages: null when the file isn't there, or not of its size */
async function verifyPart(
  span: PartSpan,
  {
    files,
    manifest,
    pageHashesFile,
  }: { files: TemplateFiles; manifest: TemplateManifest; pageHashesFile: FileHandle | null },
  signal: AbortSignal,
  onBytes: (bytes: number) => void,
): Promise<{ pages: PageIndex[] | null; arePageHashesRight: boolean }> {
  const { part, firstChunk, endChunk, sizeBytes } = span
  const size = (await orUnreadable(stat(files[part]!)))?.size
  if (size !== sizeBytes) return { pages: null, arePageHashesRight: true }
  const pages: PageIndex[] = []
  let arePageHashesRight = true
  await using content = await TemplateContent.open(files, [span])
  const chunks = Array.from({ length: endChunk - firstChunk }, (_, i) => firstChunk + i)
  for await (const { chunk, bytes } of content.read(chunks, signal)) {
    const expected = manifest.chunkHashes[chunk]!
    const known = await readPageHashes(pageHashesFile, chunk)
    const found = hashPages(bytes)
    if (chunkHash(found).equals(expected)) {
      arePageHashesRight &&= known.equals(found)
    } else {
      const isKnownRight = chunkHash(known).equals(expected)
      arePageHashesRight &&= isKnownRight
      const first = (chunk - firstChunk) * CHUNK_PAGES
      for (let page = 0; page < CHUNK_PAGES; page++) {
        if (!isKnownRight || !isSameHash(found, known, page)) pages.push(first + page)
      }
    }
    onBytes(Math.min(CHUNK_BYTES, sizeBytes - (chunk - firstChunk) * CHUNK_BYTES))
  }
  return { pages, arePageHashesRight }
}

/** Page hashes of a chunk as they were when the template was sealed; zeros where the file has none. */
async function readPageHashes(file: FileHandle | null, chunk: number): Promise<Buffer> {
  const hashes = Buffer.alloc(CHUNK_HASHES_BYTES)
  await file?.read(hashes, 0, CHUNK_HASHES_BYTES, chunk * CHUNK_HASHES_BYTES)
  return hashes
}

function isSameHash(a: Uint8Array, b: Uint8Array, page: number): boolean {
  const [start, end] = [page * HASH_BYTES, (page + 1) * HASH_BYTES]
  return Buffer.compare(a.subarray(start, end), b.subarray(start, end)) === 0
}

/** What a file that is gone, or that the disk can't read, counts as: damaged, not a failure of the check. */
async function orUnreadable<T>(reading: Promise<T>): Promise<T | null> {
  try {
    return await reading
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'EIO') return null
    throw error
  }
}
