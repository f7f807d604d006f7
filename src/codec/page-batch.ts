import { promisify } from 'node:util'
import { constants, type ZstdOptions, zstdCompress, zstdDecompress } from 'node:zlib'
import { CHUNK_PAGES, PAGE_BYTES, type Page, type PageIndex, ZERO_PAGE } from '../domain/page.ts'
import { ENCODINGS, type Encoding, xorPage } from './classify.ts'
import { CodecError } from './errors.ts'

const compress = promisify(zstdCompress) as (data: Uint8Array, options: ZstdOptions) => Promise<Buffer>
const decompress = promisify(zstdDecompress) as (data: Uint8Array, options: ZstdOptions) => Promise<Buffer>

/** Level 1 keeps up with a 1 Gbit/s link on one core. */
const ZSTD_OPTIONS: ZstdOptions = { params: { [constants.ZSTD_c_compressionLevel]: 1 } }

/** Most pages in a batch, all groups together. */
export const MAX_BATCH_PAGES = CHUNK_PAGES

/** A page with its encoding chosen and, for XOR, the template's page beside it. */
export interface ClassifiedPage extends Page {
  encoding: Encoding
  template: Uint8Array
}

/** Pages of one encoding: see PageGroup in `migration.proto`. */
export interface PageGroup {
  encoding: Encoding
  indices: PageIndex[]
  data: Uint8Array
}

/** Content of a guest's template, by page. */
export interface TemplatePages {
  /** The page's content; a view that is valid until the next call. */
  page(index: PageIndex): Uint8Array
}

/**
 * Encodes up to MAX_BATCH_PAGES pages, in ascending order, grouped by
 * encoding. The pages may be views: nothing refers to them after the promise
 * resolves, except that a group of `raw` pages has its own copy.
 */
export async function encodeBatch(pages: readonly ClassifiedPage[]): Promise<PageGroup[]> {
  const groups = ENCODINGS.map((encoding) => {
    const members = pages.filter((page) => page.encoding === encoding)
    return { encoding, members, indices: members.map((page) => page.index) }
  }).filter(({ members }) => members.length > 0)
  return Promise.all(
    groups.map(async ({ encoding, members, indices }) => ({
      encoding,
      indices,
      data: await encodeData(encoding, members),
    })),
  )
}

async function encodeData(encoding: Encoding, pages: readonly ClassifiedPage[]): Promise<Uint8Array> {
  if (encoding === 'zero' || encoding === 'template') return new Uint8Array(0)
  const joined = new Uint8Array(pages.length * PAGE_BYTES)
  pages.forEach((page, i) => {
    const place = joined.subarray(i * PAGE_BYTES, (i + 1) * PAGE_BYTES)
    if (encoding === 'xor') xorPage(page.content, page.template, place)
    else place.set(page.content)
  })
  return encoding === 'raw' ? joined : compress(joined, ZSTD_OPTIONS)
}

/**
 * Decodes the groups of one batch to whole pages. Zero pages come as the one
 * ZERO_PAGE, so that the caller can tell them by identity. The contents stay
 * valid as long as the caller holds them.
 *
 * @param guestPages - indices must lie below it
 * @throws CodecError BATCH_MALFORMED
 */
export async function decodeBatch(
  groups: readonly PageGroup[],
  template: TemplatePages,
  guestPages: number,
): Promise<Page[]> {
  const total = groups.reduce((sum, group) => sum + group.indices.length, 0)
  if (total > MAX_BATCH_PAGES) throw malformed(`${total} pages in one batch, at most ${MAX_BATCH_PAGES}`)
  for (const { indices } of groups) checkIndices(indices, guestPages)
  const distinct = new Set(groups.flatMap(({ indices }) => indices))
  if (distinct.size !== total) throw malformed('a page is in two groups of one batch')
  const decoded = await Promise.all(groups.map((group) => decodeGroup(group, template)))
  return decoded.flat()
}

function checkIndices(indices: readonly PageIndex[], guestPages: number): void {
  let previous = -1
  for (const index of indices) {
    if (index <= previous) throw malformed(`page ${index} after page ${previous}: indices must ascend`)
    if (index >= guestPages) throw malformed(`page ${index} of a guest of ${guestPages} pages`)
    previous = index
  }
}

async function decodeGroup({ encoding, indices, data }: PageGroup, template: TemplatePages): Promise<Page[]> {
  switch (encoding) {
    case 'zero':
      return indices.map((index) => ({ index, content: ZERO_PAGE }))
    case 'template':
      return indices.map((index) => ({ index, content: Uint8Array.from(template.page(index)) }))
    case 'raw':
      return splitPages(indices, data)
    case 'zstd':
      return splitPages(indices, await inflate(data, indices.length))
    case 'xor': {
      const pages = splitPages(indices, await inflate(data, indices.length))
      for (const { index, content } of pages) xorPage(content, template.page(index), content)
      return pages
    }
  }
}

/** The output is bounded before anything is decompressed: a frame that claims more is refused, not believed. */
async function inflate(data: Uint8Array, pages: number): Promise<Uint8Array> {
  try {
    return await decompress(data, { maxOutputLength: pages * PAGE_BYTES })
  } catch (cause) {
    throw malformed(`${pages} pages don't decompress`, cause)
  }
}

function splitPages(indices: readonly PageIndex[], data: Uint8Array): Page[] {
  if (data.length !== indices.length * PAGE_BYTES) {
    throw malformed(`${data.length} bytes for ${indices.length} pages`)
  }
  return indices.map((index, i) => ({ index, content: data.subarray(i * PAGE_BYTES, (i + 1) * PAGE_BYTES) }))
}

function malformed(message: string, cause?: unknown): CodecError {
  return new CodecError('BATCH_MALFORMED', message, cause === undefined ? {} : { cause })
}
