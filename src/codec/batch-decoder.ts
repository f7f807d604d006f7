import type { PageRun } from '../domain/bitmap.ts'
import { PAGE_BYTES, type Page, type PageIndex, ZERO_PAGE } from '../domain/page.ts'
import { CodecError } from './errors.ts'
import { MAX_BATCH_PAGES, type PageGroup, REFERENCE_BYTES } from './page-group.ts'
import { decompressHere } from './zstd.ts'

/** Content of a guest's template. */
export interface TemplatePages {
  /** Copies a run of pages to the start of `into`. */
  read(run: PageRun, into: Uint8Array): void
}

/** What a decoder finds the pages behind references with. */
export interface ReferencedPages {
  /** @returns the content behind a hash of REFERENCE_BYTES, checked against it; null when it isn't here any more */
  page(hash: Uint8Array): Uint8Array | null
}

export interface DecodedBatch {
  /** Zero pages come as the one ZERO_PAGE, so that the caller can tell them by identity. */
  pages: Page[]
  /** Of each reference, in order, whether it led nowhere: the page has to be sent again, as content. */
  lost: boolean[]
}

/**
 * Decodes the groups of one batch to whole pages.
 *
 * @param guestPages - indices must lie below it
 * @throws CodecError BATCH_MALFORMED
 */
export function decodeBatch(
  groups: readonly PageGroup[],
  components: { template: TemplatePages; references: ReferencedPages },
  guestPages: number,
): DecodedBatch {
  const total = groups.reduce((sum, group) => sum + group.indices.length, 0)
  if (total > MAX_BATCH_PAGES) throw malformed(`${total} pages in one batch, at most ${MAX_BATCH_PAGES}`)
  for (const { indices } of groups) checkIndices(indices, guestPages)
  const distinct = new Set(groups.flatMap(({ indices }) => indices))
  if (distinct.size !== total) throw malformed('a page is in two groups of one batch')
  const decoded: DecodedBatch = { pages: [], lost: [] }
  for (const group of groups) {
    if (group.encoding === 'reference') resolve(group, components.references, decoded)
    else decoded.pages.push(...decodeGroup(group, components.template))
  }
  return decoded
}

function checkIndices(indices: readonly PageIndex[], guestPages: number): void {
  let previous = -1
  for (const index of indices) {
    if (index <= previous) throw malformed(`page ${index} after page ${previous}: indices must ascend`)
    if (index >= guestPages) throw malformed(`page ${index} of a guest of ${guestPages} pages`)
    previous = index
  }
}

function decodeGroup({ encoding, indices, data }: PageGroup, template: TemplatePages): Page[] {
  switch (encoding) {
    case 'zero':
      return indices.map((index) => ({ index, content: ZERO_PAGE }))
    case 'template':
      return splitPages(indices, templatePages(template, indices))
    case 'raw':
      return splitPages(indices, data)
    case 'zstd':
      return splitPages(indices, inflate(data, indices.length))
    case 'delta':
      return splitPages(indices, inflate(data, indices.length, templatePages(template, indices)))
    case 'reference':
      throw new Error('references are resolved, not decoded')
  }
}

function resolve({ indices, data }: PageGroup, references: ReferencedPages, into: DecodedBatch): void {
  if (data.length !== indices.length * REFERENCE_BYTES) {
    throw malformed(`${data.length} bytes for ${indices.length} references`)
  }
  indices.forEach((index, i) => {
    const content = references.page(data.subarray(i * REFERENCE_BYTES, (i + 1) * REFERENCE_BYTES))
    into.lost.push(content === null)
    if (content !== null) into.pages.push({ index, content })
  })
}

function templatePages(template: TemplatePages, indices: readonly PageIndex[]): Buffer {
  const pages = Buffer.alloc(indices.length * PAGE_BYTES)
  indices.forEach((index, i) => {
    template.read({ first: index, end: index + 1 }, pages.subarray(i * PAGE_BYTES, (i + 1) * PAGE_BYTES))
  })
  return pages
}

/** The output is bounded before anything is decompressed: a frame that claims more is refused, not believed. */
function inflate(data: Uint8Array, pages: number, dictionary?: Uint8Array): Uint8Array {
  try {
    return decompressHere(data, pages * PAGE_BYTES, dictionary === undefined ? {} : { dictionary })
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
