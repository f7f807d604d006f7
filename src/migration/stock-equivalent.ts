import { hash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import type { PageHashes } from '../codec/index.ts'
import type { PageBitmap } from '../domain/bitmap.ts'
import { ZERO_PAGE } from '../domain/page.ts'
import type { TemplateId } from '../domain/template.ts'
import type { TemplateStore } from '../template/index.ts'

const HASH_BYTES = 32
const ZERO_PAGE_HASH = hash('sha256', ZERO_PAGE, 'buffer')

/**
 * Pages that a plain QEMU migration would send: every page of the guest that
 * isn't all zeros. Shared pages are judged by the template's page hashes,
 * private ones by what they held when last seen.
 */
export async function countStockPages(
  templates: TemplateStore,
  templateId: TemplateId,
  capture: { private: PageBitmap },
  hashes: PageHashes,
): Promise<number> {
  const pageHashes = await readFile(templates.files(templateId).pageHashes)
  let pages = 0
  for (let index = 0; index < capture.private.pages; index++) {
    const isZero = capture.private.has(index)
      ? hashes.holdsZeros(index)
      : ZERO_PAGE_HASH.equals(pageHashes.subarray(index * HASH_BYTES, (index + 1) * HASH_BYTES))
    if (!isZero) pages++
  }
  return pages
}
