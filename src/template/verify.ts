import { type FileHandle, open, readFile, stat } from 'node:fs/promises'
import { CHUNK_BYTES, CHUNK_PAGES, type PageIndex } from '../domain/page.ts'
import { TEMPLATE_FILES, type TemplateManifest } from '../domain/template.ts'
import { CHUNK_HASHES_BYTES, chunkHash, HASH_BYTES, hashFile, hashPages } from './hashing.ts'
import type { TemplateFiles } from './layout.ts'
import { readChunks } from './ram-file.ts'

/** A file of a template that doesn't hold what it should. */
export interface DamagedFile {
  /** `ram`, `page-hashes`, `manifest` or one of TEMPLATE_FILES. */
  file: string
  /** Of a RAM file of the right size: the pages that differ, ascending. All pages of a chunk whose page hashes are damaged too. */
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
  const sizes = [manifest.state, manifest.kernel, manifest.initrd, manifest.disk].map(
    (file) => file?.sizeBytes ?? 0,
  )
  const bytesTotal = sizes.reduce((sum, sizeBytes) => sum + sizeBytes, manifest.machine.memoryBytes)
  let bytesDone = 0
  const onBytes = (bytes: number): void => {
    bytesDone += bytes
    onProgress?.({ bytesDone, bytesTotal })
  }

  const damaged: DamagedFile[] = []
  if (!((await orUnreadable(readFile(files.manifest)))?.equals(manifestBytes) ?? false))
    damaged.push({ file: 'manifest' })
  damaged.push(...(await verifyRam(files, manifest, signal, onBytes)))
  for (const file of TEMPLATE_FILES) {
    const [expected, path] = [manifest[file], files[file]]
    if (expected === null || path === null) continue
    const found = await orUnreadable(hashFile(path, { signal, onBytes }))
    if (found === null || Buffer.compare(found.sha256, expected.sha256) !== 0) damaged.push({ file })
  }
  return { ok: damaged.length === 0, damaged }
}

async function verifyRam(
  files: TemplateFiles,
  { chunkHashes, machine }: TemplateManifest,
  signal: AbortSignal,
  onBytes: (bytes: number) => void,
): Promise<DamagedFile[]> {
  const damaged: DamagedFile[] = []
  const size = (await orUnreadable(stat(files.ram)))?.size
  if (size !== machine.memoryBytes) return [{ file: 'ram' }]

  await using pageHashesFile = await orUnreadable(open(files.pageHashes))
  const pages: PageIndex[] = []
  let arePageHashesRight = pageHashesFile !== null
  for await (const { chunk, bytes } of readChunks(files.ram, { first: 0, end: chunkHashes.length }, signal)) {
    const known = await readPageHashes(pageHashesFile, chunk)
    const found = hashPages(bytes)
    if (Buffer.compare(chunkHash(found), chunkHashes[chunk]!) === 0) {
      arePageHashesRight &&= known.equals(found)
    } else {
      const isKnownRight = Buffer.compare(chunkHash(known), chunkHashes[chunk]!) === 0
      arePageHashesRight &&= isKnownRight
      for (let page = 0; page < CHUNK_PAGES; page++) {
        if (!isKnownRight || !isSameHash(found, known, page)) pages.push(chunk * CHUNK_PAGES + page)
      }
    }
    onBytes(CHUNK_BYTES)
  }
  if (pages.length > 0) damaged.push({ file: 'ram', pages })
  if (!arePageHashesRight) damaged.push({ file: 'page-hashes' })
  return damaged
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
