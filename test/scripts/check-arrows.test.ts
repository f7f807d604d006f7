import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { findArrowViolations, importsOf } from '../../scripts/check-arrows.ts'

let root: string | undefined

afterEach(() => {
  if (root !== undefined) rmSync(root, { recursive: true, force: true })
  root = undefined
})

function treeWith(files: Record<string, string>): string {
  root = mkdtempSync(join(tmpdir(), 'arrows-'))
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, name)), { recursive: true })
    writeFileSync(join(root, name), text)
  }
  return root
}

const allowed: [file: string, specifier: string][] = [
  ['src/main.ts', './cli/run.ts'],
  ['src/main.ts', './agent/agent.ts'],
  ['src/agent/agent.ts', '../mesh/node.ts'],
  ['src/agent/agent.ts', 'libp2p'],
  ['src/migration/source.ts', '../qemu/process.ts'],
  ['src/migration/source.ts', './rounds.ts'],
  ['src/cli/run.ts', '../domain/ids.ts'],
  ['src/cli/run.ts', '../agent/api-schema.ts'],
  ['src/cli/run.ts', '../../package.json'],
  ['src/template/id.ts', 'multiformats/cid'],
  ['src/mesh/node.ts', '@chainsafe/libp2p-noise'],
  ['src/wire/batch.ts', '../domain/page.ts'],
]

test.each(allowed)('%s may import %s', (file, specifier) => {
  expect(findArrowViolations(treeWith({ [file]: `import { a } from '${specifier}'\n` }))).toEqual([])
})

const refused: [file: string, specifier: string, to: string][] = [
  ['src/domain/ids.ts', '../wire/batch.ts', 'wire'],
  ['src/wire/batch.ts', '../codec/page.ts', 'codec'],
  ['src/qemu/process.ts', '../memory/pagemap.ts', 'memory'],
  ['src/vm/run.ts', '../migration/source.ts', 'migration'],
  ['src/migration/source.ts', '../vm/run.ts', 'vm'],
  ['src/migration/source.ts', '../mesh/node.ts', 'mesh'],
  ['src/migration/source.ts', '@libp2p/interface', '@libp2p/interface'],
  ['src/domain/ids.ts', '@multiformats/multiaddr', '@multiformats/multiaddr'],
  ['src/cli/run.ts', '../agent/agent.ts', 'agent'],
  ['src/main.ts', './qemu/process.ts', 'qemu'],
  ['src/cellar/wine.ts', '../domain/ids.ts', 'domain'],
]

test.each(refused)('%s may not import %s', (file, specifier, to) => {
  const fromRoom = file.split('/')[1]?.replace('.ts', '')
  expect(findArrowViolations(treeWith({ [file]: `import { a } from '${specifier}'\n` }))).toEqual([
    { file, fromRoom, to },
  ])
})

test('finds every kind of import, and none in comments or strings', () => {
  const source = `
    import a from './a.ts'
    import type { B } from "./b.ts"
    import {
      c,
      d
    } from './c.ts'; import './e.ts'
    export * from './f.ts'
    export { g } from './g.ts'
    const url = 'http://example.org' // import z from './z.ts'
    /* import y from './y.ts' */
    export const h = await import('./h.ts')
    export function from(x = 'not-one') { return x }
  `
  expect(importsOf(source)).toEqual(['./a.ts', './b.ts', './c.ts', './e.ts', './f.ts', './g.ts', './h.ts'])
})
