import { CHUNK_PAGES, type PageIndex } from '../domain/page.ts'
import type { Encoding } from './classify.ts'

/** Most pages in a batch, all groups together. */
export const MAX_BATCH_PAGES = CHUNK_PAGES

/** SHA-256 of a page, its first half: what a reference names a page of another VM by. */
export const REFERENCE_BYTES = 16

/** Pages of one encoding: see PageGroup in `migration.proto`. */
export interface PageGroup {
  encoding: Encoding
  /** Ascending. */
  indices: PageIndex[]
  data: Uint8Array
}
