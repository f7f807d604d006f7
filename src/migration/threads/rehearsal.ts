import { randomBytes } from 'node:crypto'
import { BatchEncoder, CompressionChoice, classifyPage, decodeBatch, PageHashes } from '../../codec/index.ts'
import { PageBitmap } from '../../domain/bitmap.ts'
import { PAGE_BYTES } from '../../domain/page.ts'
import { rehearseScan } from '../../memory/index.ts'

const PAGES = 64
/** After so many V8 has compiled what is done to each page. */
const TIMES = 24

/**
 * Does in a new page thread what moves will do in it, with pages of its own:
 * V8 runs code slowly the first times, and a first move would pay for it in
 * its blackout. A scan of 512 MiB takes 5 ms the first time, 0.7 ms the tenth;
 * all of this takes 60 ms.
 */
export async function rehearse(): Promise<void> {
  const template = randomBytes(PAGES * PAGE_BYTES)
  const contents = Array.from({ length: PAGES }, (_, index) => pageLike(index, template))
  const encoder = new BatchEncoder()
  const compression = new CompressionChoice()
  const components = {
    template: {
      read: ({ first, end }: { first: number; end: number }, into: Uint8Array) =>
        into.set(template.subarray(first * PAGE_BYTES, end * PAGE_BYTES)),
    },
    references: { page: () => null },
  }
  for (let time = 0; time < TIMES; time++) {
    const hashes = new PageHashes(PAGES, time)
    contents.forEach((content, index) => {
      const templatePage = template.subarray(index * PAGE_BYTES, (index + 1) * PAGE_BYTES)
      hashes.update(index, content)
      encoder.add(index, classifyPage(content, templatePage), content, templatePage)
    })
    decodeBatch(encoder.take(compression), components, PAGES)
    hashes.digest(hashes.known)
    PageBitmap.of(PAGES, hashes.known.words()).runFrom(0, PAGES)
  }
  await rehearseScan()
}

/** One page of each kind that there is, in turn. */
function pageLike(index: number, template: Uint8Array): Uint8Array {
  const kinds = [
    () => new Uint8Array(PAGE_BYTES),
    () => randomBytes(PAGE_BYTES),
    () => Buffer.alloc(PAGE_BYTES, 'text that compresses'),
    () => {
      const changed = Uint8Array.from(template.subarray(index * PAGE_BYTES, (index + 1) * PAGE_BYTES))
      for (let i = 0; i < 32; i++) changed[i * 97] = i
      return changed
    },
  ]
  return kinds[index % kinds.length]!()
}
