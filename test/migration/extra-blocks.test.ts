import { expect, test } from 'vitest'
import { PAGE_BYTES } from '../../src/domain/page.ts'
import { ExtraBlocks } from '../../src/migration/extra-blocks.ts'

const page = (value: number) => Buffer.alloc(PAGE_BYTES, value)
const blocks = new ExtraBlocks(100, [
  { name: 'vga.vram', usedBytes: 4 * PAGE_BYTES, pages: [{ offsetBytes: 2 * PAGE_BYTES, content: page(7) }] },
  { name: 'flash', usedBytes: PAGE_BYTES + 1, pages: [{ offsetBytes: 0, content: null }] },
])

test('pages of each block follow main RAM, and each is found again', () => {
  expect(blocks.pages).toBe(6)
  expect(blocks.indexOf('vga.vram', 3)).toBe(103)
  expect(blocks.indexOf('flash', 1)).toBe(105)
  expect(blocks.indexOf('ram0', 1)).toBeNull()
  expect(() => blocks.indexOf('vga.vram', 4)).toThrow(RangeError)
  expect(blocks.placeOf(99)).toBeNull()
  expect(blocks.placeOf(103)).toEqual({ name: 'vga.vram', page: 3 })
  expect(blocks.placeOf(104)).toEqual({ name: 'flash', page: 0 })
  expect(() => blocks.placeOf(106)).toThrow(RangeError)
})

test("they read as the template's, and as zero where it has nothing", () => {
  const into = page(1)
  for (const [index, value] of [
    [102, 7],
    [101, 0],
    [104, 0],
  ] as const) {
    blocks.read(index, into)
    expect(into.equals(page(value)), String(index)).toBe(true)
  }
})
