import { access, type FileHandle } from 'node:fs/promises'
import { diskFullOf } from '../domain/errors.ts'
import { CHUNK_BYTES, type PageIndex } from '../domain/page.ts'
import type { TemplateManifest } from '../domain/template.ts'
import { TemplateContent } from './content.ts'
import { openSized, reflink } from './disk.ts'
import { TemplateError } from './errors.ts'
import { writeFully } from './file-bytes.ts'
import { CHUNK_HASHES_BYTES, chunkHash, hashPages, isZeroChunk, ZERO_CHUNK_PAGE_HASHES } from './hashing.ts'
import { countChunks, type DraftFiles, partSpans } from './layout.ts'

/** What is in a hole. Never written to. */
const NOTHING = Buffer.alloc(CHUNK_BYTES)

/**
 * A template's files while they are filled chunk by chunk. Nothing reaches the
 * disk before it hashes to what the manifest says, so whatever is there already,
 * from an earlier, interrupted fetch or of a template that is to be repaired, is
 * taken up by hashing it: there is no record of progress that could be wrong.
 */
export class IncomingTemplate implements AsyncDisposable {
  readonly manifest: TemplateManifest
  /** Chunks that are still to come. */
  readonly missing: Set<number>
  readonly #content: TemplateContent
  readonly #pageHashes: FileHandle
  /** Its files were made here: what isn't written yet reads as zeros. */
  readonly #isAllHoles: boolean

  private constructor(
    manifest: TemplateManifest,
    opened: { content: TemplateContent; pageHashes: FileHandle; missing: Set<number>; isAllHoles: boolean },
  ) {
    this.manifest = manifest
    this.#content = opened.content
    this.#pageHashes = opened.pageHashes
    this.missing = opened.missing
    this.#isAllHoles = opened.isAllHoles
  }

  /**
   * @param options.baseRamPath - RAM file of a template that is much the same: where the file system can, the draft
   *   begins as a reflink of it, and shares with it on disk what both hold
   */
  static async open(
    files: DraftFiles,
    manifest: TemplateManifest,
    { baseRamPath, signal }: { baseRamPath: string | null; signal: AbortSignal },
  ): Promise<IncomingTemplate> {
    const spans = partSpans(manifest)
    const present = await Promise.all(spans.map(({ part }) => isThere(files[part])))
    // RAM is the first.
    const isReflinked = !present[0] && baseRamPath !== null && (await reflink(baseRamPath, files.ram))
    await using opening = new AsyncDisposableStack()
    const content = opening.use(await TemplateContent.openDraft(files, spans))
    const pageHashes = opening.use(
      await openSized(files.pageHashes, manifest.chunkHashes.length * CHUNK_HASHES_BYTES),
    )
    const all = Array.from({ length: countChunks(manifest) }, (_, chunk) => chunk)
    const isAllHoles = !isReflinked && !present.includes(true)
    const opened = { content, pageHashes, missing: new Set(all), isAllHoles }
    const incoming = new IncomingTemplate(manifest, opened)
    if (isAllHoles) await incoming.#keepHoles()
    else await incoming.#takeUp(all, signal)
    opening.move()
    return incoming
  }

  /**
   * Page hashes of a chunk, if it is the template's.
   *
   * @param bytes - CHUNK_BYTES
   */
  check(chunk: number, bytes: Buffer): Buffer | null {
    const pageHashes = hashPages(bytes)
    return chunkHash(pageHashes).equals(this.manifest.chunkHashes[chunk]!) ? pageHashes : null
  }

  /**
   * @param pageHashes - what `check` returned for it
   * @throws DiskFullError
   */
  async write(chunk: number, bytes: Buffer, pageHashes: Buffer): Promise<void> {
    try {
      await this.#content.writeChunk(chunk, bytes, this.#isAllHoles ? NOTHING : undefined)
      await writeFully(this.#pageHashes, pageHashes, chunk * CHUNK_HASHES_BYTES)
    } catch (error) {
      throw diskFullOf(error) ?? error
    }
    this.missing.delete(chunk)
  }

  /** A page of a chunk that is there. */
  readPage(page: PageIndex, into: Buffer): Promise<void> {
    return this.#content.readPage(page, into)
  }

  /** @throws TemplateError TEMPLATE_INCOMPLETE */
  requireComplete(): void {
    if (this.missing.size === 0) return
    throw new TemplateError('TEMPLATE_INCOMPLETE', 'not all of the template has come', {
      details: { chunks: this.missing.size },
    })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#content.close()
    await this.#pageHashes.close()
  }

  /** New files are all holes, and so are the chunks of zeros. */
  async #keepHoles(): Promise<void> {
    for (const [chunk, hash] of this.manifest.chunkHashes.entries()) {
      if (isZeroChunk(hash)) await this.#keep(chunk, ZERO_CHUNK_PAGE_HASHES)
    }
  }

  async #takeUp(chunks: readonly number[], signal: AbortSignal): Promise<void> {
    for await (const { chunk, bytes } of this.#content.read(chunks, signal)) {
      const pageHashes = this.check(chunk, bytes)
      if (pageHashes !== null) await this.#keep(chunk, pageHashes)
    }
  }

  async #keep(chunk: number, pageHashes: Buffer): Promise<void> {
    await writeFully(this.#pageHashes, pageHashes, chunk * CHUNK_HASHES_BYTES)
    this.missing.delete(chunk)
  }
}

function isThere(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  )
}
