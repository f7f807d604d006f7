import { globSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'

const ROOT = join(import.meta.dirname, '../..')

/** Codes that a room's `errors.ts` declares: the keys of its exported table. */
async function declaredCodes(): Promise<Set<string>> {
  const codes = new Set(['INTERNAL'])
  for (const file of globSync('src/*/errors.ts', { cwd: ROOT })) {
    const room: Record<string, unknown> = await import(join(ROOT, file))
    for (const [name, table] of Object.entries(room)) {
      if (name.endsWith('_ERRORS')) for (const code of Object.keys(table as object)) codes.add(code)
    }
  }
  return codes
}

test('every error code has its line in the README, and no line is left of a code that is gone', async () => {
  const readme = await readFile(join(ROOT, 'README.md'), 'utf8')
  const table = readme.slice(readme.indexOf('## Errors'))
  const firstCells = table
    .split('\n')
    .flatMap((line) => (line.startsWith('| `') ? [line.split('|')[1]!] : []))
  const documented = firstCells.flatMap((cell) =>
    [...cell.matchAll(/`([A-Z_]+)`/g)].map((match) => match[1]!),
  )
  expect(documented.toSorted()).toEqual([...(await declaredCodes())].toSorted())
})
