import { expect, test } from 'vitest'
import { renderFacts, renderTable } from '../../src/cli/table.ts'
import { formatBytes, formatMs } from '../../src/cli/units.ts'

test.each([
  [0, '0 B'],
  [468, '468 B'],
  [3686, '3.6 KiB'],
  [512 * 1024 ** 2, '512 MiB'],
  [1000 * 1024 ** 2, '0.98 GiB'],
  [1.5 * 1024 ** 4, '1.5 TiB'],
])('%d bytes are shown as %s', (bytes, shown) => {
  expect(formatBytes(bytes)).toBe(shown)
})

test.each([
  [0.4, '0.4 ms'],
  [6.24, '6.2 ms'],
  [340, '340 ms'],
  [4130, '4.1 s'],
  [200_000, '3 min 20 s'],
])('%d ms are shown as %s', (ms, shown) => {
  expect(formatMs(ms)).toBe(shown)
})

test('table columns are as wide as their longest cell, without trailing blanks', () => {
  expect(
    renderTable(
      ['A', 'LONGER'],
      [
        ['wide cell', '1'],
        ['x', ''],
      ],
    ),
  ).toBe('A          LONGER\nwide cell  1\nx')
})

test('facts that are null are left out', () => {
  expect(
    renderFacts([
      ['name', 'web'],
      ['pid', null],
      ['id', '7'],
    ]),
  ).toBe('name  web\nid    7')
})
