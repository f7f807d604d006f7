import { createHash } from 'node:crypto'
import { type FileHandle, open } from 'node:fs/promises'
import { CHUNK_BYTES } from '../domain/page.ts'
import {
  TEMPLATE_FILES,
  type TemplateFile,
  type TemplateManifest,
  type TemplateRecord,
} from '../domain/template.ts'
import type { ChunkData } from '../wire/template-messages.ts'
import { decodeChunk } from './chunk-data.ts'
import { DRAFT_FILE_MODE } from './disk.ts'
import type { TemplateDraft } from './draft.ts'
import { TemplateError } from './errors.ts'
import { CHUNK_HASHES_BYTES, chunkHash, hashPages, ZERO_CHUNK_PAGE_HASHES } from './hashing.ts'
import { writeSparse } from './ram-file.ts'

/**
 * A draft that is filled with what a peer sends. Nothing of a chunk reaches
 * the disk before its page hashes are those of the manifest; a file is written
 * as it comes, no longer than it may be, and checked at its end.
 */
export class IncomingTemplate {
  readonly #draft: TemplateDraft
  readonly #manifest: TemplateManifest
  readonly #ram: FileHandle
  readonly #pageHashes: FileHandle
  readonly #missingChunks: Set<number>
  readonly #missingFiles: Set<TemplateFile>

  private constructor(
    draft: TemplateDraft,
    manifest: TemplateManifest,
    handles: { ram: FileHandle; pageHashes: FileHandle },
  ) {
    this.#draft = draft
    this.#manifest = manifest
    this.#ram = handles.ram
    this.#pageHashes = handles.pageHashes
    this.#missingChunks = new Set(manifest.chunkHashes.keys())
    this.#missingFiles = new Set(TEMPLATE_FILES.filter((file) => manifest[file] !== null))
  }

  /** Makes the RAM file, all of it a hole. */
  static async open(draft: TemplateDraft, manifest: TemplateManifest): Promise<IncomingTemplate> {
    await using opening = new AsyncDisposableStack()
    const ram = opening.use(await open(draft.files.ram, 'wx', DRAFT_FILE_MODE))
    await ram.truncate(manifest.machine.memoryBytes)
    const pageHashes = opening.use(await open(draft.files.pageHashes, 'wx', DRAFT_FILE_MODE))
    // Both are open: from here on the template closes them.
    opening.move()
    return new IncomingTemplate(draft, manifest, { ram, pageHashes })
  }

  /** Files to ask for, RAM aside. */
  get missingFiles(): TemplateFile[] {
    return [...this.#missingFiles]
  }

  /**
   * Checks a chunk and writes it.
   *
   * @throws TemplateError TEMPLATE_MISMATCH
   */
  async writeChunk(data: ChunkData, peer: string): Promise<void> {
    const expected = this.#manifest.chunkHashes[data.chunk]
    if (expected === undefined) throw mismatch(`chunk ${data.chunk}`, peer)
    const isEmpty = data.pageOffsets.length === 0 && data.pages.length === 0
    const bytes = isEmpty ? null : await decodeChunk(data)
    if (bytes === null && !isEmpty) throw mismatch(`chunk ${data.chunk}`, peer)
    const pageHashes = bytes === null ? ZERO_CHUNK_PAGE_HASHES : hashPages(bytes)
    if (Buffer.compare(chunkHash(pageHashes), expected) !== 0) throw mismatch(`chunk ${data.chunk}`, peer)
    if (bytes !== null) await writeSparse(this.#ram, bytes, data.chunk * CHUNK_BYTES)
    await this.#pageHashes.write(pageHashes, 0, CHUNK_HASHES_BYTES, data.chunk * CHUNK_HASHES_BYTES)
    this.#missingChunks.delete(data.chunk)
  }

  /**
   * Writes a file from pieces that come in order.
   *
   * @throws TemplateError TEMPLATE_MISMATCH
   */
  async writeFile(file: TemplateFile, pieces: AsyncIterable<Uint8Array>, peer: string): Promise<void> {
    const expected = this.#manifest[file]
    if (expected === null) throw mismatch(`${file} file`, peer)
    await using handle = await open(this.#draft.files[file], 'wx', DRAFT_FILE_MODE)
    await handle.truncate(expected.sizeBytes)
    const sha256 = createHash('sha256')
    let written = 0
    for await (const piece of pieces) {
      if (written + piece.length > expected.sizeBytes) throw mismatch(`${file} file`, peer)
      sha256.update(piece)
      await writeSparse(handle, piece, written)
      written += piece.length
    }
    if (written !== expected.sizeBytes || Buffer.compare(sha256.digest(), expected.sha256) !== 0)
      throw mismatch(`${file} file`, peer)
    this.#missingFiles.delete(file)
  }

  /**
   * Puts the template into the store, without a name.
   *
   * @throws TemplateError TEMPLATE_INCOMPLETE
   */
  async seal(options: { signal: AbortSignal }): Promise<TemplateRecord> {
    if (this.#missingChunks.size > 0 || this.#missingFiles.size > 0) {
      const [chunks, files] = [this.#missingChunks.size, this.missingFiles]
      throw new TemplateError('TEMPLATE_INCOMPLETE', 'not all of the template has come', {
        details: { chunks, files },
      })
    }
    await this[Symbol.asyncDispose]()
    return this.#draft.sealAs(this.#manifest, null, options)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#ram.close()
    await this.#pageHashes.close()
  }
}

function mismatch(what: string, peer: string): TemplateError {
  return new TemplateError(
    'TEMPLATE_MISMATCH',
    `${peer} sent a ${what} that isn't the template's: its copy is damaged, or it lies; fetch from another peer`,
    { details: { peer, what } },
  )
}
