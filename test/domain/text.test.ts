import { expect, test } from 'vitest'
import { NAME_PATTERN, parseRateBytesPerSecond, parseSizeBytes } from '../../src/domain/text.ts'

test.each([
  ['512M', 512 * 1024 ** 2],
  ['2GiB', 2 * 1024 ** 3],
  ['1.5G', 1.5 * 1024 ** 3],
  ['4096', 4096],
  ['64k', 65_536],
  ['', null],
  ['M', null],
  ['-1M', null],
  ['1.3', null],
  ['1e9', null],
  ['9999999999T', null],
])('size %j is %j bytes', (text, bytes) => {
  expect(parseSizeBytes(text)).toBe(bytes)
})

test.each([
  ['100Mbit', 12_500_000],
  ['1Gbit/s', 125_000_000],
  ['12MB/s', 12_000_000],
  ['800kbps', 800_000],
  ['0Mbit', null],
  ['fast', null],
  ['100', null],
])('rate %j is %j bytes per second', (text, rate) => {
  expect(parseRateBytesPerSecond(text)).toBe(rate)
})

test.each([
  ['web-1', true],
  ['a', true],
  ['A.b_c-1', true],
  ['', false],
  ['.', false],
  ['..', false],
  ['-x', false],
  ['a/b', false],
  ['a b', false],
  ['x'.repeat(64), false],
])('name %j is taken: %j', (name, ok) => {
  expect(NAME_PATTERN.test(name)).toBe(ok)
})
