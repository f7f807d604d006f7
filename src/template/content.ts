import { type FileHandle, open } from 'node:fs/promises'
import { CHUNK_BYTES, CHUNK_PAGES, PAGE_BYTES, type PageIndex } from '../domain/page.ts'
import { countPages } from '../wire/template-messages.ts'
import { pageRuns, pagesOf, type WantedPages } from './chunk-pages.ts'
import { openSized } from './disk.ts'
import { readFully, writeFully } from './file-bytes.ts'
import type { DraftFiles, PartSpan, TemplateFiles } from './layout.ts'

/** A chunk and what it holds. `bytes` is CHUNK_BYTES long and valid until the next one is asked for. */
export interface Chunk {
  chunk: number
  bytes: Buffer
}

interface OpenPart extends PartSpan {
  file: FileHandle
}

/**
 * A template's chunks, read from and written to the files that they lie in.
 * Knows where bytes are, not whether they are right.
 */
export class TemplateContent implements AsyncDisposable {
  readonly #parts: readonly OpenPart[]

  private constructor(parts: readonly OpenPart[]) {
    this.#parts = parts
  }

  /**
   * Of a template that is there.
   *
   * @param spans - of its parts, or of some of them
   */
  static open(files: TemplateFiles | DraftFiles, spans: readonly PartSpan[]): Promise<TemplateContent> {
    return TemplateContent.#open(files, spans, async (path) => open(path))
  }

  /** Of a draft: makes the files that it lacks, each of its full size and all of it a hole. */
  static async openDraft(files: DraftFiles, spans: readonly PartSpan[]): Promise<TemplateContent> {
    return TemplateContent.#open(files, spans, openSized)
  }

  static async #open(
    files: TemplateFiles | DraftFiles,
    spans: readonly PartSpan[],
    openPart: (path: string, sizeBytes: number) => Promise<FileHandle>,
  ): Promise<TemplateContent> {
    await using opening = new AsyncDisposableStack()
    const parts: OpenPart[] = []
    for (const span of spans) {
      parts.push({ ...span, file: opening.use(await openPart(files[span.part]!, span.sizeBytes)) })
    }
    opening.move()
    return new TemplateContent(parts)
  }

  /**
   * @param into - CHUNK_BYTES
   * @throws TemplateError TEMPLATE_DAMAGED when a file ends early
   */
  async readChunk(chunk: number, into: Buffer): Promise<void> {
    await this.#readPages(chunk, { first: 0, end: CHUNK_PAGES }, into)
  }

  /**
   * Some pages of a chunk, joined.
   *
   * @param pages - within the chunk, ascending
   * @throws TemplateError TEMPLATE_DAMAGED when a file ends early
   */
  async readPages(chunk: number, pages: readonly number[], into: Buffer): Promise<void> {
    let at = 0
    for (const run of pageRuns(pages)) {
      const bytes = (run.end - run.first) * PAGE_BYTES
      await this.#readPages(chunk, run, into.subarray(at, at + bytes))
      at += bytes
    }
  }

  /**
   * Some pages of several chunks, joined.
   *
   * @throws TemplateError TEMPLATE_DAMAGED when a file ends early
   */
  async readWanted(wanted: readonly WantedPages[], into: Buffer): Promise<void> {
    let at = 0
    for (const { chunk, bitmap } of wanted) {
      const end = at + countPages(bitmap) * PAGE_BYTES
      await this.readPages(chunk, pagesOf(bitmap), into.subarray(at, end))
      at = end
    }
  }

  /** @param page - counted over all chunks */
  async readPage(page: PageIndex, into: Buffer): Promise<void> {
    await this.readPages(Math.floor(page / CHUNK_PAGES), [page % CHUNK_PAGES], into)
  }

  /**
   * Chunks in order, the next one read while the caller works on this one.
   *
   * @param chunks - ascending
   */
  async *read(chunks: Iterable<number>, signal: AbortSignal): AsyncGenerator<Chunk> {
    const buffers = [Buffer.allocUnsafe(CHUNK_BYTES), Buffer.allocUnsafe(CHUNK_BYTES)] as const
    let reads = 0
    const start = (chunk: number): Chunk & { done: Promise<void> } => {
      const bytes = buffers[reads++ % 2]!
      const done = this.readChunk(chunk, bytes)
      // It may fail before its turn to be awaited; then it still throws there.
      done.catch(() => {})
      return { chunk, bytes, done }
    }
    let next: ReturnType<typeof start> | null = null
    try {
      for (const chunk of chunks) {
        signal.throwIfAborted()
        const current = next
        next = start(chunk)
        if (current === null) continue
        await current.done
        yield current
      }
      await next?.done
      if (next !== null) yield next
    } finally {
      await next?.done.catch(() => {})
    }
  }

  /**
   * Writes the pages of a chunk that differ from what is there: a hole stays
   * one where it should hold zeros, and so does a page that a reflinked file
   * shares with another.
   *
   * @param bytes - CHUNK_BYTES
   * @param present - what is there, if it is known
   */
  async writeChunk(chunk: number, bytes: Buffer, present?: Buffer): Promise<void> {
    if (present === undefined) {
      const read = Buffer.allocUnsafe(CHUNK_BYTES)
      await this.readChunk(chunk, read)
      return this.writeChunk(chunk, bytes, read)
    }
    const { file, firstChunk, sizeBytes } = this.#part(chunk)
    const start = (chunk - firstChunk) * CHUNK_BYTES
    const changed: number[] = []
    for (let at = 0; at < CHUNK_BYTES; at += PAGE_BYTES) {
      if (bytes.compare(present, at, at + PAGE_BYTES, at, at + PAGE_BYTES) !== 0)
        changed.push(at / PAGE_BYTES)
    }
    for (const run of pageRuns(changed)) {
      const end = Math.min(run.end * PAGE_BYTES, sizeBytes - start)
      const at = run.first * PAGE_BYTES
      await writeFully(file, bytes.subarray(at, end), start + at)
    }
  }

  async close(): Promise<void> {
    await Promise.all(this.#parts.map(({ file }) => file.close()))
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #readPages(
    chunk: number,
    { first, end }: { first: number; end: number },
    into: Buffer,
  ): Promise<void> {
    const { file, firstChunk, sizeBytes } = this.#part(chunk)
    const position = (chunk - firstChunk) * CHUNK_BYTES + first * PAGE_BYTES
    const wanted = (end - first) * PAGE_BYTES
    const there = Math.max(0, Math.min(wanted, sizeBytes - position))
    await readFully(file, into.subarray(0, there), position)
    into.fill(0, there, wanted)
  }

  #part(chunk: number): OpenPart {
    const part = this.#parts.find(({ endChunk }) => chunk < endChunk)
    if (part === undefined || chunk < 0) throw new RangeError(`no chunk ${chunk}`)
    return part
  }
}
