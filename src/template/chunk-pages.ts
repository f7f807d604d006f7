import { CHUNK_PAGES } from '../domain/page.ts'
import { CHUNK_BITMAP_BYTES, countPages } from '../wire/template-messages.ts'

/** Sets of pages of one chunk, as their bitmap on the wire: page p is bit p % 8 of byte p / 8. */

/** Some pages of one chunk. */
export interface WantedPages {
  chunk: number
  bitmap: Uint8Array
}

/** Of all chunks together. */
export function countWanted(wanted: readonly WantedPages[]): number {
  return wanted.reduce((sum, { bitmap }) => sum + countPages(bitmap), 0)
}

/** Pages of a bitmap, 0..255, ascending. */
export function pagesOf(bitmap: Uint8Array): number[] {
  const pages: number[] = []
  for (let page = 0; page < CHUNK_PAGES; page++) if (hasPage(bitmap, page)) pages.push(page)
  return pages
}

export function bitmapOf(pages: Iterable<number>): Uint8Array {
  const bitmap = new Uint8Array(CHUNK_BITMAP_BYTES)
  for (const page of pages) bitmap[page >>> 3]! |= 1 << (page & 7)
  return bitmap
}

export function hasPage(bitmap: Uint8Array, page: number): boolean {
  return (bitmap[page >>> 3]! & (1 << (page & 7))) !== 0
}

/** Consecutive pages joined. */
export function pageRuns(pages: readonly number[]): { first: number; end: number }[] {
  const runs: { first: number; end: number }[] = []
  for (const page of pages) {
    const last = runs.at(-1)
    if (last?.end === page) last.end++
    else runs.push({ first: page, end: page + 1 })
  }
  return runs
}
