import { expect, test } from 'vitest'
import { PageBitmap } from '../../src/domain/bitmap.ts'

test('holds what was added, in order, across word borders', () => {
  const indices = [0, 1, 31, 32, 33, 63, 64, 199]
  const bitmap = PageBitmap.from(200, indices.toReversed())
  expect([...bitmap]).toEqual(indices)
  expect(bitmap.count).toBe(indices.length)
  expect(bitmap.has(32)).toBe(true)
  expect(bitmap.has(34)).toBe(false)
  bitmap.delete(32)
  expect(bitmap.has(32)).toBe(false)
  expect(bitmap.count).toBe(indices.length - 1)
})

test('counts like iteration does on random sets', () => {
  for (let round = 0; round < 50; round++) {
    const pages = 1 + Math.floor(Math.random() * 5000)
    const indices = Array.from({ length: pages / 3 }, () => Math.floor(Math.random() * pages))
    const bitmap = PageBitmap.from(pages, indices)
    expect([...bitmap]).toEqual([...new Set(indices)].toSorted((a, b) => a - b))
    expect(bitmap.count).toBe(new Set(indices).size)
  }
})

test('joins neighbours to runs and cuts long ones', () => {
  const bitmap = PageBitmap.from(1000, [3, 4, 5, 9, 500, 501, 502, 503, 504])
  expect([...bitmap.runs(4)]).toEqual([
    { first: 3, end: 6 },
    { first: 9, end: 10 },
    { first: 500, end: 504 },
    { first: 504, end: 505 },
  ])
  expect([...new PageBitmap(8).runs(4)]).toEqual([])
})

test('set operations leave their operands alone', () => {
  const a = PageBitmap.from(100, [1, 2, 70])
  const b = PageBitmap.from(100, [2, 99])
  expect([...a.without(b)]).toEqual([1, 70])
  const both = a.clone()
  both.addAll(b)
  expect([...both]).toEqual([1, 2, 70, 99])
  expect([...a]).toEqual([1, 2, 70])
})

test.each([-1, 100, 1.5, Number.NaN])('refuses page %s of 100', (index) => {
  expect(() => new PageBitmap(100).add(index)).toThrow(RangeError)
})

test('refuses sets of another size', () => {
  expect(() => new PageBitmap(10).addAll(new PageBitmap(11))).toThrow(RangeError)
})
