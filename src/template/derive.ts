import { chmod, copyFile, type FileHandle, link, open, stat, writeFile } from 'node:fs/promises'
import { PageBitmap } from '../domain/bitmap.ts'
import { diskFullOf } from '../domain/errors.ts'
import { CHUNK_BYTES, PAGE_BYTES, type PageIndex } from '../domain/page.ts'
import type { TemplateId, TemplateManifest, TemplateRecord } from '../domain/template.ts'
import { TemplateContent } from './content.ts'
import { DRAFT_FILE_MODE, reflink, STAT_BLOCK_BYTES } from './disk.ts'
import type { TemplateDraft } from './draft.ts'
import { readFully, writeFully } from './file-bytes.ts'
import { CHUNK_HASHES_BYTES, chunkHash, hashPages } from './hashing.ts'
import { countChunks, type DraftFiles, partSpans, type TemplateExtent, type TemplateFiles } from './layout.ts'
import { patchPageHashes } from './patch-hashes.ts'
import type { TemplateStore } from './store.ts'

/** The state file, about 350 KB, and what the file system needs for itself. */
const SMALL_FILES_BYTES = 4 * 1024 ** 2

export interface DeriveOptions {
  /** What the new template will have for itself, about: decides whether there is disk space for it. */
  ownPages: number
  signal: AbortSignal
  /** How much of the parent's RAM is copied; not called where it need not be. */
  onCopied?: (progress: { bytesDone: number; bytesTotal: number }) => void
}

/**
 * A template on its way that begins as another one: the same RAM, kernel and
 * initrd. Pages are written over it, and sealing hashes just those.
 *
 *     file          reflinks                    none
 *     ram           shared until written        copied, holes stay holes
 *     page-hashes   shared until written        copied
 *     kernel        one file with the parent's (hard link), on either
 *     initrd        the same
 *     state         its own
 *
 * What wasn't written keeps the hashes that the parent is named by, and isn't
 * read: a parent that was damaged on disk doesn't pass its damage on as
 * content. `verify` finds it in the one as in the other.
 */
export class DerivedTemplate implements AsyncDisposable {
  readonly #draft: TemplateDraft
  readonly #parent: TemplateManifest
  readonly #ram: FileHandle
  readonly #written: PageBitmap
  readonly #before = Buffer.allocUnsafe(CHUNK_BYTES)

  private constructor(draft: TemplateDraft, parent: TemplateManifest, ram: FileHandle) {
    this.#draft = draft
    this.#parent = parent
    this.#ram = ram
    this.#written = new PageBitmap(parent.machine.memoryBytes / PAGE_BYTES)
  }

  /**
   * Makes the draft. From here on nothing of the parent is needed.
   *
   * @throws TemplateError TEMPLATE_NOT_FOUND, TEMPLATE_DAMAGED; DiskFullError
   */
  static async open(
    store: TemplateStore,
    parentId: TemplateId,
    options: DeriveOptions,
  ): Promise<DerivedTemplate> {
    const { manifest } = store.get(parentId)
    const parent = store.files(parentId)
    await using opening = new AsyncDisposableStack()
    const draft = opening.use(await store.begin())
    const { files } = draft
    await adopt(parent.kernel, files.kernel)
    if (parent.initrd !== null) await adopt(parent.initrd, files.initrd)
    const isShared = await reflink(parent.ram, files.ram)
    const pageHashesBytes = (await reflink(parent.pageHashes, files.pageHashes))
      ? 0
      : (await stat(parent.pageHashes)).size
    const ramBytes = isShared ? 0 : (await stat(parent.ram)).blocks * STAT_BLOCK_BYTES
    store.requireFreeBytes(options.ownPages * PAGE_BYTES + ramBytes + pageHashesBytes + SMALL_FILES_BYTES)
    if (pageHashesBytes > 0) await copy(parent.pageHashes, files.pageHashes)
    if (!isShared) await copyRam(parent, files, manifest, options)
    const ram = opening.use(await open(files.ram, 'r+'))
    // Both are the template's to end now.
    opening.move()
    return new DerivedTemplate(draft, manifest, ram)
  }

  /**
   * Writes consecutive pages, those of them that differ from what is there: the
   * others stay shared with the parent, or holes. Content may be written again.
   *
   * @param bytes - whole pages, CHUNK_PAGES at most
   * @throws DiskFullError
   */
  async write(first: PageIndex, bytes: Uint8Array): Promise<void> {
    const before = this.#before.subarray(0, bytes.length)
    await readFully(this.#ram, before, first * PAGE_BYTES)
    const pages = bytes.length / PAGE_BYTES
    const isSame = (page: number) => pageAt(before, page).equals(pageAt(bytes, page))
    for (let start = 0; start < pages; ) {
      if (isSame(start)) {
        start++
        continue
      }
      let end = start + 1
      while (end < pages && !isSame(end)) end++
      await this.#overwrite(first + start, bytes.subarray(start * PAGE_BYTES, end * PAGE_BYTES))
      start = end
    }
  }

  /**
   * Puts the template into the store.
   *
   * @param state - of the new template: what its state file is to hold
   * @param name - label to give it, reserved by the caller
   * @returns the record, and how many pages differ from the parent's
   * @throws TemplateError TEMPLATE_DAMAGED when the parent's page hashes aren't what its manifest says
   */
  async seal(
    name: string,
    state: Uint8Array,
    { signal }: { signal: AbortSignal },
  ): Promise<{ record: TemplateRecord; changedPages: number }> {
    const { files } = this.#draft
    await writeFile(files.state, state, { flag: 'wx', mode: DRAFT_FILE_MODE })
    await using pageHashes = await open(files.pageHashes, 'r+')
    const ramHashes = this.#parent.chunkHashes.slice(0, this.#parent.machine.memoryBytes / CHUNK_BYTES)
    const { chunkHashes, changedPages } = await patchPageHashes(
      { ram: this.#ram, pageHashes },
      { chunkHashes: ramHashes, written: this.#written, signal },
    )
    await this.#ram.close()
    const sizes = { ...this.#parent.sizes, state: state.length }
    const fileHashes = await hashFiles(pageHashes, this.#parent, { ...this.#parent, sizes }, state)
    const manifest: TemplateManifest = {
      ...this.#parent,
      sizes,
      chunkHashes: [...chunkHashes, ...fileHashes],
    }
    return { record: await this.#draft.sealAs(manifest, name, { signal }), changedPages }
  }

  /** Removes the draft; does nothing to a template that was sealed. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#ram.close()
    await this.#draft.discard()
  }

  async #overwrite(first: PageIndex, bytes: Uint8Array): Promise<void> {
    const pages = bytes.length / PAGE_BYTES
    for (let page = first; page < first + pages; page++) this.#written.add(page)
    try {
      await writeFully(this.#ram, bytes, first * PAGE_BYTES)
    } catch (error) {
      throw diskFullOf(error) ?? error
    }
  }
}

function pageAt(bytes: Uint8Array, page: number): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset + page * PAGE_BYTES, PAGE_BYTES)
}

/**
 * One file under two names: sealed files are read-only for good. QEMUs of both
 * templates then share its page cache too, which reflinked files don't.
 */
async function adopt(from: string, to: string): Promise<void> {
  try {
    await link(from, to)
  } catch (error) {
    // A file system without hard links, or a file that has as many as it can (link(2)).
    if (!['EPERM', 'EMLINK', 'ENOTSUP'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error
    if (!(await reflink(from, to))) await copy(from, to)
  }
}

async function copy(from: string, to: string): Promise<void> {
  await copyFile(from, to)
  await chmod(to, DRAFT_FILE_MODE)
}

/** Its zeros are holes there too. */
async function copyRam(
  parent: TemplateFiles,
  draft: DraftFiles,
  manifest: TemplateManifest,
  { signal, onCopied }: DeriveOptions,
): Promise<void> {
  const spans = partSpans(manifest).filter(({ part }) => part === 'ram')
  await using from = await TemplateContent.open(parent, spans)
  await using to = await TemplateContent.openDraft(draft, spans)
  const bytesTotal = manifest.machine.memoryBytes
  const chunks = Array.from({ length: bytesTotal / CHUNK_BYTES }, (_, chunk) => chunk)
  for await (const { chunk, bytes } of from.read(chunks, signal)) {
    await to.writeChunk(chunk, bytes)
    onCopied?.({ bytesDone: (chunk + 1) * CHUNK_BYTES, bytesTotal })
  }
}

/**
 * Page hashes of a derived template's files: of its own state, and those of the
 * parent's files, which may begin at another chunk there.
 *
 * @param pageHashes - the parent's, as far as files go; the new template's afterwards
 * @returns the files' chunk hashes
 */
async function hashFiles(
  pageHashes: FileHandle,
  parent: TemplateManifest,
  derived: TemplateExtent,
  state: Uint8Array,
): Promise<Uint8Array[]> {
  const [, ...spans] = partSpans(derived)
  const chunkHashes: Uint8Array[] = []
  const hashes: Buffer[] = []
  for (const { part, firstChunk, endChunk } of spans) {
    if (part === 'state') {
      const padded = Buffer.alloc((endChunk - firstChunk) * CHUNK_BYTES)
      padded.set(state)
      for (let at = 0; at < padded.length; at += CHUNK_BYTES) {
        const own = hashPages(padded.subarray(at, at + CHUNK_BYTES))
        hashes.push(own)
        chunkHashes.push(chunkHash(own))
      }
      continue
    }
    const there = partSpans(parent).find((span) => span.part === part)!
    const known = Buffer.alloc((endChunk - firstChunk) * CHUNK_HASHES_BYTES)
    await readFully(pageHashes, known, there.firstChunk * CHUNK_HASHES_BYTES)
    hashes.push(known)
    chunkHashes.push(...parent.chunkHashes.slice(there.firstChunk, there.endChunk))
  }
  await writeFully(pageHashes, Buffer.concat(hashes), spans[0]!.firstChunk * CHUNK_HASHES_BYTES)
  await pageHashes.truncate(countChunks(derived) * CHUNK_HASHES_BYTES)
  return chunkHashes
}
