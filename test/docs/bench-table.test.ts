import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { namedResults, renderTable, withTable } from '../bench/readme-table.ts'
import { readResults } from '../bench/results.ts'

const ROOT = join(import.meta.dirname, '../..')

const readme = await readFile(join(ROOT, 'README.md'), 'utf8')
const path = namedResults(readme)

test('the table of measurements in the README is what the results that it names say', async () => {
  expect(path).not.toBeNull()
  expect(withTable(readme, path!, await readResults(join(ROOT, path!)))).toBe(readme)
})

test('a target that was missed is named below the table, with what was measured', async () => {
  const results = await readResults(join(ROOT, path!))
  const [row] = results.rows
  const target = {
    what: 'blackout',
    measured: 16.4,
    relation: '≤',
    bound: 15,
    unit: 'ms',
    met: false,
  } as const
  const missed = renderTable({ ...results, rows: [{ ...row!, targets: [target] }] })
  expect(missed).toContain('0 of 1')
  expect(missed).toContain('blackout 16.4 ms, should be ≤ 15.0 ms')
  const kept = renderTable({ ...results, rows: [{ ...row!, targets: [{ ...target, met: true }] }] })
  expect(kept).toContain('1 of 1')
  expect(kept).not.toContain('misses')
})
