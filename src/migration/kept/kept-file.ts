import { closeSync, fstatSync, openSync, readSync, renameSync, rmSync, writeSync } from 'node:fs'
import { PageHashes } from '../../codec/index.ts'
import type { PageBitmap, PageRun } from '../../domain/bitmap.ts'
import { CHUNK_PAGES, PAGE_BYTES, type Page, type PageIndex, ZERO_PAGE } from '../../domain/page.ts'

/** Of a file that is being written. */
export const DRAFT_SUFFIX = '.new'

/**
 * The pages that a VM left behind when it went away: those that it had sent,
 * as they were in the end.
 *
 *     "DRVKEPT1"                     magic, version
 *     32 bytes                       digest of the pages, as PageHashes has it
 *     u32 pages                      that follow
 *     u32 index...                   ascending; the highest bit set: all zeros, no content
 *     4096 bytes...                  content of each other page, in the same order
 *
 * Little-endian. Written without fsync: what is read back is hashed, and one
 * that a crash or a bad disk has damaged, or that can't be read, is as good as
 * none.
 */
const MAGIC = Buffer.from('DRVKEPT1')
const DIGEST_BYTES = 32
const HEAD_BYTES = MAGIC.length + DIGEST_BYTES + 4
const ZERO_BIT = 0x8000_0000

export interface KeptHead {
  digest: Uint8Array
  pages: number
}

/** What such a file takes, at most. */
export function keptFileBytes(pages: number): number {
  return HEAD_BYTES + pages * (4 + PAGE_BYTES)
}

/**
 * Writes the pages of a guest that stands still, a MiB with each step: a page
 * thread has other jobs between. Whatever fails, and when it is given up, no
 * file is left. 48 MiB: 40 ms.
 *
 * @param guest.read - copies a run of pages to the start of `into`
 */
export function* writingKeptFile(
  path: string,
  {
    digest,
    pages,
    holdsZeros,
  }: { digest: Uint8Array; pages: PageBitmap; holdsZeros: (index: PageIndex) => boolean },
  guest: { read(run: PageRun, into: Uint8Array): void },
): Generator<void> {
  const writing = `${path}${DRAFT_SUFFIX}`
  const fd = openSync(writing, 'w', 0o600)
  let isWritten = false
  try {
    const contents = pages.clone()
    const head = Buffer.alloc(HEAD_BYTES + pages.count * 4)
    MAGIC.copy(head)
    head.set(digest, MAGIC.length)
    let at = head.writeUInt32LE(pages.count, MAGIC.length + DIGEST_BYTES)
    for (const index of pages) {
      const isZero = holdsZeros(index)
      if (isZero) contents.delete(index)
      at = head.writeUInt32LE(isZero ? (index | ZERO_BIT) >>> 0 : index, at)
    }
    writeAll(fd, head)
    const buffer = Buffer.alloc(CHUNK_PAGES * PAGE_BYTES)
    let sinceStep = 0
    for (const run of contents.runs(CHUNK_PAGES)) {
      guest.read(run, buffer)
      writeAll(fd, buffer.subarray(0, (run.end - run.first) * PAGE_BYTES))
      sinceStep += run.end - run.first
      if (sinceStep < CHUNK_PAGES) continue
      sinceStep = 0
      yield
    }
    isWritten = true
  } finally {
    closeSync(fd)
    if (isWritten) renameSync(writing, path)
    else rmSync(writing, { force: true })
  }
}

/** @returns null when there is none, or it doesn't begin as one */
export function readKeptHead(path: string): KeptHead | null {
  const fd = openIfReadable(path)
  if (fd === null) return null
  try {
    return readHead(fd)
  } catch {
    return null
  } finally {
    closeSync(fd)
  }
}

/** Pages that were kept, in order, as often as wanted. */
export class KeptFile implements Disposable {
  readonly #fd: number
  readonly #entries: Uint32Array

  private constructor(fd: number, entries: Uint32Array) {
    this.#fd = fd
    this.#entries = entries
  }

  /**
   * @param digest - what the pages must hash to
   * @returns null when there are no such pages here any more
   */
  static open(path: string, digest: Uint8Array): KeptFile | null {
    const fd = openIfReadable(path)
    if (fd === null) return null
    let file: KeptFile | null = null
    try {
      const head = readHead(fd)
      if (head === null || !Buffer.from(head.digest).equals(digest)) return null
      file = new KeptFile(fd, readEntries(fd, head.pages))
      return file
    } catch {
      return null
    } finally {
      if (file === null) closeSync(fd)
    }
  }

  /**
   * Looks whether the pages are as they were, a MiB with each step.
   *
   * @param hashes - pages of the guest, and the digest that they must have by this seed
   */
  *checking({
    seed,
    pages,
    digest,
  }: {
    seed: number
    pages: number
    digest: Uint8Array
  }): Generator<void, boolean> {
    const hashes = new PageHashes(pages, seed)
    try {
      for (const batch of this.pages()) {
        for (const { index, content } of batch) {
          if (index >= pages) return false
          hashes.update(index, content)
        }
        yield
      }
    } catch {
      return false
    }
    return Buffer.from(digest).equals(hashes.digest(hashes.known))
  }

  /** Up to CHUNK_PAGES pages at a time; contents are valid until the next are asked for. */
  *pages(): Generator<Page[]> {
    const buffer = Buffer.alloc(CHUNK_PAGES * PAGE_BYTES)
    let position = HEAD_BYTES + this.#entries.byteLength
    for (let first = 0; first < this.#entries.length; first += CHUNK_PAGES) {
      const entries = this.#entries.subarray(first, first + CHUNK_PAGES)
      const contents = entries.filter((entry) => entry < ZERO_BIT).length
      readAll(this.#fd, buffer.subarray(0, contents * PAGE_BYTES), position)
      position += contents * PAGE_BYTES
      let slot = 0
      yield [...entries].map((entry) => {
        if (entry >= ZERO_BIT) return { index: entry - ZERO_BIT, content: ZERO_PAGE }
        const content = buffer.subarray(slot * PAGE_BYTES, (slot + 1) * PAGE_BYTES)
        slot++
        return { index: entry, content }
      })
    }
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd)
  }
}

function readHead(fd: number): KeptHead | null {
  const head = Buffer.alloc(HEAD_BYTES)
  if (readSync(fd, head, 0, HEAD_BYTES, 0) !== HEAD_BYTES) return null
  const pages = head.readUInt32LE(MAGIC.length + DIGEST_BYTES)
  const { size } = fstatSync(fd)
  // Between all zeros and none: before so many are believed.
  const isPossible = size >= HEAD_BYTES + pages * 4 && size <= keptFileBytes(pages)
  if (!isPossible || !MAGIC.equals(head.subarray(0, MAGIC.length))) return null
  return { digest: head.subarray(MAGIC.length, MAGIC.length + DIGEST_BYTES), pages }
}

function readEntries(fd: number, pages: number): Uint32Array {
  const entries = new Uint32Array(pages)
  readAll(fd, new Uint8Array(entries.buffer), HEAD_BYTES)
  return entries
}

/** What lies behind the end reads as zeros: the digest finds it. */
function readAll(fd: number, into: Uint8Array, position: number): void {
  for (let done = 0; done < into.length; ) {
    const bytesRead = readSync(fd, into, done, into.length - done, position + done)
    if (bytesRead === 0) {
      into.fill(0, done)
      return
    }
    done += bytesRead
  }
}

function writeAll(fd: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done)
}

function openIfReadable(path: string): number | null {
  try {
    return openSync(path, 'r')
  } catch {
    return null
  }
}
