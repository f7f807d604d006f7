/**
 * Puts the table of a benchmark's run into the README: `npm run bench:readme -- test/bench/results/NAME.json`.
 * Without a file: once more the one that the README names. test/docs checks that this would change nothing.
 */
import { readFile, writeFile } from 'node:fs/promises'
import { join, relative, resolve } from 'node:path'
import { namedResults, withTable } from '../test/bench/readme-table.ts'
import { readResults } from '../test/bench/results.ts'

const root = join(import.meta.dirname, '..')
const readmePath = join(root, 'README.md')

const readme = await readFile(readmePath, 'utf8')
const [given] = process.argv.slice(2)
const path = given === undefined ? namedResults(readme) : relative(root, resolve(given))
if (path === null || path.startsWith('..')) {
  console.error(
    'usage: npm run bench:readme -- [FILE]   FILE: what `npm run bench -- --json` wrote, in this repository',
  )
  process.exit(2)
}
await writeFile(readmePath, withTable(readme, path, await readResults(join(root, path))))
