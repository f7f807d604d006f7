import { type FileHandle, open, readFile } from 'node:fs/promises'
import { PageBitmap } from '../domain/bitmap.ts'
import { PAGE_BYTES } from '../domain/page.ts'
import type { PageCounts } from '../domain/vm.ts'
import type { Freeze } from './freeze.ts'
import type { GuestMapping } from './mapping.ts'

/**
 * One 8-byte entry per page (Linux, Documentation/admin-guide/mm/pagemap.rst).
 * All bits that matter lie in the upper half, so entries are read as pairs of
 * 32-bit words and no BigInt is made: 131,072 entries take about 1 ms.
 *
 *     63 present   62 swapped   61 page of a file or shared memory   55 soft-dirty
 */
const ENTRY_BYTES = 8
const PRESENT = 1 << 31
const SWAPPED = 1 << 30
const OF_FILE = 1 << 29
const SOFT_DIRTY = 1 << 23

/** What one pass over the page map found. */
export interface PagemapScan {
  /** Written since the clone started: present or swapped, and no page of the template file. */
  private: PageBitmap
  /** Written since the last `clear_refs`; all zero on kernels without soft-dirty. */
  softDirty: PageBitmap
  counts: PageCounts
}

/** A guest's memory as far as trackers look at it; the looking may be done elsewhere. */
export interface ScannedMemory {
  readonly pid: number
  /** Whoever freezes this guest does it here. */
  readonly freeze: Freeze
  scan(): Promise<PagemapScan>
}

/** Reads the entries of a guest's main RAM. `buffer` is reused between scans: see pagemapBuffer(). */
export async function scanPagemap(
  pagemap: FileHandle,
  mapping: GuestMapping,
  buffer: Uint32Array,
): Promise<PagemapScan> {
  const pages = mapping.lengthBytes / PAGE_BYTES
  const bytes = new Uint8Array(buffer.buffer)
  const position = (mapping.addressBytes / PAGE_BYTES) * ENTRY_BYTES
  for (let done = 0; done < bytes.length; ) {
    const { bytesRead } = await pagemap.read(bytes, done, bytes.length - done, position + done)
    if (bytesRead === 0) throw Object.assign(new Error('pagemap ends early'), { code: 'ESRCH' })
    done += bytesRead
  }
  const scan: PagemapScan = {
    private: new PageBitmap(pages),
    softDirty: new PageBitmap(pages),
    counts: { guest: pages, private: 0, shared: 0, untouched: 0 },
  }
  for (let page = 0; page < pages; page++) {
    const entry = buffer[page * 2 + 1]!
    if ((entry & (PRESENT | SWAPPED)) === 0) {
      scan.counts.untouched++
      continue
    }
    if ((entry & OF_FILE) !== 0) {
      scan.counts.shared++
      continue
    }
    scan.counts.private++
    scan.private.add(page)
    if ((entry & SOFT_DIRTY) !== 0) scan.softDirty.add(page)
  }
  return scan
}

/** Room for the entries of a guest of so many pages, as 32-bit words (little-endian hosts). */
export function pagemapBuffer(pages: number): Uint32Array {
  return new Uint32Array(pages * 2)
}

/** As large as a guest of 512 MiB. */
const REHEARSED_PAGES = 131_072
const REHEARSED_TIMES = 6

/** Scans this process's own page map a few times, for V8 to compile what scans a guest's. */
export async function rehearseScan(): Promise<void> {
  const maps = await readFile('/proc/self/maps', 'utf8')
  const addressBytes = Number.parseInt(maps, 16)
  await using pagemap = await open('/proc/self/pagemap', 'r')
  const mapping = { addressBytes, lengthBytes: REHEARSED_PAGES * PAGE_BYTES }
  const buffer = pagemapBuffer(REHEARSED_PAGES)
  for (let time = 0; time < REHEARSED_TIMES; time++) await scanPagemap(pagemap, mapping, buffer)
}
