import { randomBytes } from 'node:crypto'
import { zstdCompressSync } from 'node:zlib'
import { expect, test } from 'vitest'
import {
  BatchEncoder,
  CodecError,
  CompressionChoice,
  classifyPage,
  decodeBatch,
  type PageGroup,
  type ReferencedPages,
  type TemplatePages,
} from '../../src/codec/index.ts'
import { PAGE_BYTES, ZERO_PAGE } from '../../src/domain/page.ts'

const GUEST_PAGES = 1024
const templateRam = randomBytes(GUEST_PAGES * PAGE_BYTES)
templateRam.fill(0, 0, 16 * PAGE_BYTES)
/** Begins as dictionaries of zstd's own do (RFC 8878, section 5), and is none. */
const DICTIONARY_PAGE = 300
templateRam.writeUInt32LE(0xec30a437, DICTIONARY_PAGE * PAGE_BYTES)
const templatePage = (index: number) => templateRam.subarray(index * PAGE_BYTES, (index + 1) * PAGE_BYTES)
const template: TemplatePages = {
  read: ({ first, end }, into) => into.set(templateRam.subarray(first * PAGE_BYTES, end * PAGE_BYTES)),
}
const elsewhere = randomBytes(PAGE_BYTES)
/** Only the hash of sixteen ones leads anywhere. */
const references: ReferencedPages = {
  page: (hash) => (Buffer.alloc(16, 1).equals(hash) ? elsewhere : null),
}
const decode = (groups: readonly PageGroup[]) => decodeBatch(groups, { template, references }, GUEST_PAGES)

const text = Buffer.from('All work and no play makes a page compressible. '.repeat(100)).subarray(
  0,
  PAGE_BYTES,
)

function changedPage(index: number, bytes: number): Buffer {
  const content = Buffer.from(templatePage(index))
  for (let i = 0; i < bytes; i++) content[(i * 97) % PAGE_BYTES]! ^= 0x5a
  return content
}

function encode(pages: readonly { index: number; content: Uint8Array }[]): PageGroup[] {
  const encoder = new BatchEncoder()
  for (const { index, content } of pages) {
    encoder.add(index, classifyPage(content, templatePage(index)), content, templatePage(index))
  }
  return encoder.take(new CompressionChoice())
}

test.each([
  ['zeros', 100, Buffer.alloc(PAGE_BYTES), 'zero'],
  ['zeros over a zero template page', 3, Buffer.alloc(PAGE_BYTES), 'zero'],
  ['the template page', 100, templatePage(100), 'template'],
  ['eight changed bytes', 100, changedPage(100, 8), 'delta'],
  ['text over a random template page', 100, text, 'zstd'],
  ['text over a zero template page', 3, text, 'zstd'],
  ['random bytes', 100, randomBytes(PAGE_BYTES), 'raw'],
  ['one changed byte of a zero page', 3, Buffer.concat([Buffer.alloc(4095), Buffer.from([1])]), 'zstd'],
] as const)('%s are sent as expected', (_, index, content, encoding) => {
  expect(classifyPage(content, templatePage(index))).toBe(encoding)
})

test('a page whose bytes start at an odd address is classified all the same', () => {
  const odd = Buffer.alloc(PAGE_BYTES + 1)
  odd.set(changedPage(100, 8), 1)
  expect(classifyPage(odd.subarray(1), templatePage(100))).toBe('delta')
})

test('what is encoded comes back, whatever the mixture', () => {
  const contents = new Map<number, Uint8Array>()
  for (let index = 0; index < 256; index++) {
    const kinds = [
      () => Buffer.alloc(PAGE_BYTES),
      () => Buffer.from(templatePage(index)),
      () => changedPage(index, 1 + Math.floor(Math.random() * 2000)),
      () => text,
      () => randomBytes(PAGE_BYTES),
    ]
    contents.set(index, kinds[index % kinds.length]!())
  }
  const groups = encode([...contents].map(([index, content]) => ({ index, content })))
  expect(new Set(groups.map((group) => group.encoding))).toEqual(
    new Set(['zero', 'template', 'delta', 'zstd', 'raw']),
  )
  const { pages, lost } = decode(groups)
  expect(lost).toEqual([])
  expect(pages.length).toBe(256)
  for (const { index, content } of pages) expect(Buffer.compare(content, contents.get(index)!)).toBe(0)
  const zeros = pages.filter(({ content }) => content === ZERO_PAGE)
  expect(zeros.length).toBe(
    [...contents.values()].filter((content) => Buffer.compare(content, ZERO_PAGE) === 0).length,
  )
})

test('a template page that zstd takes for a dictionary of its own keeps no page from being sent', () => {
  const pages = [DICTIONARY_PAGE, DICTIONARY_PAGE + 1].map((index) => ({
    index,
    content: changedPage(index, 8),
  }))
  const decoded = decode(encode(pages)).pages.toSorted((a, b) => a.index - b.index)
  for (const [i, { content }] of decoded.entries()) expect(Buffer.compare(content, pages[i]!.content)).toBe(0)
  expect(decoded).toHaveLength(2)
})

test('an encoder is empty after a batch', () => {
  const encoder = new BatchEncoder()
  const compression = new CompressionChoice()
  for (const index of [1, 2]) {
    const content = new Uint8Array(PAGE_BYTES).fill(index)
    encoder.add(index, 'raw', content, templatePage(index))
    const groups = encoder.take(compression)
    expect(encoder.pages).toBe(0)
    expect(groups.map(({ encoding, indices }) => ({ encoding, indices }))).toEqual([
      { encoding: 'raw', indices: [index] },
    ])
    expect(Buffer.compare(groups[0]!.data, content)).toBe(0)
  }
})

test('a few changed bytes cost a few bytes', () => {
  const pages = Array.from({ length: 88 }, (_, i) => ({ index: 100 + i, content: changedPage(100 + i, 8) }))
  const bytes = encode(pages).reduce((sum, group) => sum + group.data.length, 0)
  expect(bytes).toBeLessThan(88 * 64)
})

test('a page that moved within its batch costs next to nothing', () => {
  // Each holds what the template has one page further on, and one byte of its own.
  const pages = Array.from({ length: 32 }, (_, i) => {
    const content = changedPage(100 + i, 1)
    content.set(templatePage(101 + i).subarray(0, 1024), 512)
    return { index: 100 + i, content }
  })
  const [group] = encode(pages)
  expect(group!.encoding).toBe('delta')
  expect(group!.data.length).toBeLessThan(4096)
  for (const { index, content } of decode([group!]).pages) {
    expect(Buffer.compare(content, pages[index - 100]!.content)).toBe(0)
  }
})

test('references come as what they lead to, and those that lead nowhere are told', () => {
  const encoder = new BatchEncoder()
  encoder.addReference(7, Buffer.alloc(16, 1))
  encoder.addReference(8, Buffer.alloc(16, 2))
  encoder.addReference(9, Buffer.alloc(16, 1))
  const { pages, lost } = decode(encoder.take(new CompressionChoice()))
  expect(pages).toEqual([
    { index: 7, content: elsewhere },
    { index: 9, content: elsewhere },
  ])
  expect(lost).toEqual([false, true, false])
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
  ['half a hash', [{ encoding: 'reference', indices: [5], data: new Uint8Array(8) }]],
  [
    'a difference to another length',
    [{ ...zstd([5, 6], zstdCompressSync(randomBytes(PAGE_BYTES))), encoding: 'delta' }],
  ],
  ['no zstd', [zstd([5], randomBytes(100))]],
  ['truncated zstd', [zstd([5], zstdCompressSync(randomBytes(PAGE_BYTES)).subarray(0, 200))]],
  ['zstd of too little', [zstd([5, 6], zstdCompressSync(randomBytes(PAGE_BYTES)))]],
  ['a decompression bomb', [zstd([5], zstdCompressSync(Buffer.alloc(64 * 1024 * 1024)))]],
])('%s is refused', (_, groups) => {
  const error = thrownBy(() => decode(groups))
  expect(error).toBeInstanceOf(CodecError)
  expect((error as CodecError).code).toBe('BATCH_MALFORMED')
})

function thrownBy(action: () => unknown): unknown {
  try {
    action()
  } catch (error) {
    return error
  }
  return undefined
}
