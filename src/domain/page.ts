/** Guest page, the unit of capture, encoding and hashing. x86 and arm64 guests use 4 KiB. */
export const PAGE_BYTES = 4096

/** Pages in a chunk: 1 MiB of guest memory, the unit of negotiation and of one data frame. */
export const CHUNK_PAGES = 256
export const CHUNK_BYTES = PAGE_BYTES * CHUNK_PAGES

/** Index of a page in a guest's main RAM block: its offset divided by PAGE_BYTES. */
export type PageIndex = number

/** A page and what it holds. `content` is PAGE_BYTES long and may be a view on a larger buffer. */
export interface Page {
  index: PageIndex
  content: Uint8Array
}

/** All zero; compared against, never written. */
export const ZERO_PAGE: Uint8Array = new Uint8Array(PAGE_BYTES)

const zeroPage = Buffer.from(ZERO_PAGE.buffer)

/** Whether a page holds nothing but zeros. `Buffer.compare` is a memcmp: it ends at the first difference. */
export function isZeroPage(content: Uint8Array): boolean {
  return content[0] === 0 && zeroPage.equals(content)
}
