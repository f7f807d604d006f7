import { randomBytes } from 'node:crypto'
import { zstdCompressSync } from 'node:zlib'
import { expect, test } from 'vitest'
import {
  type ClassifiedPage,
  CodecError,
  classifyPage,
  decodeBatch,
  encodeBatch,
  type PageGroup,
  type TemplatePages,
} from '../../src/codec/index.ts'
import { PAGE_BYTES, ZERO_PAGE } from '../../src/domain/page.ts'

const GUEST_PAGES = 1024
const templateRam = randomBytes(GUEST_PAGES * PAGE_BYTES)
templateRam.fill(0, 0, 16 * PAGE_BYTES)
const template: TemplatePages = {
  page: (index) => templateRam.subarray(index * PAGE_BYTES, (index + 1) * PAGE_BYTES),
}

const text = Buffer.from('All work and no play makes a page compressible. '.repeat(100)).subarray(
  0,
  PAGE_BYTES,
)

function changedPage(index: number, bytes: number): Buffer {
  const content = Buffer.from(template.page(index))
  for (let i = 0; i < bytes; i++) content[(i * 97) % PAGE_BYTES]! ^= 0x5a
  return content
}

function classify(index: number, content: Uint8Array): ClassifiedPage {
  return {
    index,
    content,
    template: template.page(index),
    encoding: classifyPage(content, template.page(index)),
  }
}

test.each([
  ['zeros', 100, Buffer.alloc(PAGE_BYTES), 'zero'],
  ['zeros over a zero template page', 3, Buffer.alloc(PAGE_BYTES), 'zero'],
  ['the template page', 100, template.page(100), 'template'],
  ['eight changed bytes', 100, changedPage(100, 8), 'xor'],
  ['text over a random template page', 100, text, 'zstd'],
  ['text over a zero template page', 3, text, 'zstd'],
  ['random bytes', 100, randomBytes(PAGE_BYTES), 'raw'],
  ['one changed byte of a zero page', 3, Buffer.concat([Buffer.alloc(4095), Buffer.from([1])]), 'zstd'],
] as const)('%s are sent as expected', (_, index, content, encoding) => {
  expect(classifyPage(content, template.page(index))).toBe(encoding)
})

test('a page whose bytes start at an odd address is classified all the same', () => {
  const odd = Buffer.alloc(PAGE_BYTES + 1)
  odd.set(changedPage(100, 8), 1)
  expect(classifyPage(odd.subarray(1), template.page(100))).toBe('xor')
})

test('what is encoded comes back, whatever the mixture', async () => {
  const contents = new Map<number, Uint8Array>()
  for (let index = 0; index < 256; index++) {
    const kinds = [
      () => Buffer.alloc(PAGE_BYTES),
      () => Buffer.from(template.page(index)),
      () => changedPage(index, 1 + Math.floor(Math.random() * 2000)),
      () => text,
      () => randomBytes(PAGE_BYTES),
    ]
    contents.set(index, kinds[index % kinds.length]!())
  }
  const groups = await encodeBatch([...contents].map(([index, content]) => classify(index, content)))
  expect(new Set(groups.map((group) => group.encoding))).toEqual(
    new Set(['zero', 'template', 'xor', 'zstd', 'raw']),
  )
  const decoded = await decodeBatch(groups, template, GUEST_PAGES)
  expect(decoded.length).toBe(256)
  for (const { index, content } of decoded) expect(Buffer.compare(content, contents.get(index)!)).toBe(0)
  const zeros = decoded.filter(({ content }) => content === ZERO_PAGE)
  expect(zeros.length).toBe(
    [...contents.values()].filter((content) => Buffer.compare(content, ZERO_PAGE) === 0).length,
  )
})

test('a few changed bytes cost a few bytes', async () => {
  const pages = Array.from({ length: 88 }, (_, i) => classify(100 + i, changedPage(100 + i, 8)))
  const groups = await encodeBatch(pages)
  const bytes = groups.reduce((sum, group) => sum + group.data.length, 0)
  expect(bytes).toBeLessThan(88 * 64)
})

const raw = (indices: number[], bytes: number): PageGroup => ({
  encoding: 'raw',
  indices,
  data: new Uint8Array(bytes),
})
const zstd = (indices: number[], data: Uint8Array): PageGroup => ({ encoding: 'zstd', indices, data })

test.each<[string, PageGroup[]]>([
  ['a page outside the guest', [raw([GUEST_PAGES], PAGE_BYTES)]],
  ['the same page twice in a group', [raw([5, 5], 2 * PAGE_BYTES)]],
  ['descending pages', [raw([6, 5], 2 * PAGE_BYTES)]],
  [
    'one page in two groups',
    [raw([5], PAGE_BYTES), { encoding: 'zero', indices: [5], data: new Uint8Array(0) }],
  ],
  ['too little data', [raw([5, 6], PAGE_BYTES)]],
  ['too much data', [raw([5], 2 * PAGE_BYTES)]],
  [
    'more pages than a batch holds',
    [{ encoding: 'zero', indices: Array.from({ length: 257 }, (_, i) => i), data: new Uint8Array(0) }],
  ],
  ['no zstd', [zstd([5], randomBytes(100))]],
  ['truncated zstd', [zstd([5], zstdCompressSync(randomBytes(PAGE_BYTES)).subarray(0, 200))]],
  ['zstd of too little', [zstd([5, 6], zstdCompressSync(randomBytes(PAGE_BYTES)))]],
  ['a decompression bomb', [zstd([5], zstdCompressSync(Buffer.alloc(64 * 1024 * 1024)))]],
])('%s is refused', async (_, groups) => {
  const error = await decodeBatch(groups, template, GUEST_PAGES).catch((thrown: unknown) => thrown)
  expect(error).toBeInstanceOf(CodecError)
  expect((error as CodecError).code).toBe('BATCH_MALFORMED')
})
