import { chmod, open, rm, truncate } from 'node:fs/promises'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { PAGE_BYTES } from '../../src/domain/page.ts'
import type { TemplateFiles, VerifyResult } from '../../src/template/index.ts'
import { addTemplate, machine, never, TestNode } from './fixture.ts'

async function flipBit(path: string, offset: number): Promise<void> {
  await chmod(path, 0o600)
  await using file = await open(path, 'r+')
  const byte = Buffer.alloc(1)
  await file.read(byte, 0, 1, offset)
  await file.write(Buffer.from([byte[0]! ^ 0x10]), 0, 1, offset)
}

const ALL_OF_CHUNK_1 = Array.from({ length: 256 }, (_, i) => 256 + i)

test.each<[what: string, damage: (files: TemplateFiles) => Promise<void>, damaged: VerifyResult['damaged']]>([
  ['nothing', async () => {}, []],
  ['a bit of page 300', (f) => flipBit(f.ram, 300 * PAGE_BYTES + 17), [{ file: 'ram', pages: [300] }]],
  [
    'bits of pages 5 and 700, in holes',
    async (f) => {
      await flipBit(f.ram, 5 * PAGE_BYTES)
      await flipBit(f.ram, 701 * PAGE_BYTES - 1)
    },
    [{ file: 'ram', pages: [5, 700] }],
  ],
  ['a page hash', (f) => flipBit(f.pageHashes, 300 * 32), [{ file: 'page-hashes' }]],
  ['the page hashes', (f) => rm(f.pageHashes), [{ file: 'page-hashes' }]],
  [
    'a page and a page hash of its chunk',
    async (f) => {
      await flipBit(f.ram, 300 * PAGE_BYTES)
      await flipBit(f.pageHashes, 301 * 32)
    },
    [{ file: 'ram', pages: ALL_OF_CHUNK_1 }, { file: 'page-hashes' }],
  ],
  ['the RAM file', (f) => rm(f.ram), [{ file: 'ram' }]],
  ['the end of the RAM file', (f) => truncate(f.ram, machine.memoryBytes - 1), [{ file: 'ram' }]],
  ['the state', (f) => flipBit(f.state, 0), [{ file: 'state', pages: [0] }]],
  ['the kernel', (f) => rm(f.kernel), [{ file: 'kernel' }]],
  ['the initrd', (f) => flipBit(f.initrd!, 5), [{ file: 'initrd', pages: [0] }]],
  ['the disk', (f) => flipBit(f.disk!, 5000), [{ file: 'disk', pages: [1] }]],
  ['the manifest', (f) => flipBit(f.manifest, 40), [{ file: 'manifest' }]],
])('names what is damaged: %s', async (_, damage, damaged) => {
  await using node = await TestNode.start()
  const { id } = await addTemplate(node.store, null, { disk: Buffer.alloc(10_000, 7) })
  await damage(node.store.files(id))
  expect(await node.store.verify(id, { signal: never() })).toEqual({ ok: damaged.length === 0, damaged })
})

test('reports every byte once, and lets others have their turn', async () => {
  await using node = await TestNode.start()
  const { id, manifest } = await addTemplate(node.store)
  const bytesTotal =
    machine.memoryBytes + manifest.sizes.state + manifest.sizes.kernel + manifest.sizes.initrd
  const seen: number[] = []
  let turns = 0
  const done = new AbortController()
  const others = (async () => {
    while (!done.signal.aborted) {
      await nextTurn()
      turns++
    }
  })()
  await node.store.verify(id, {
    signal: never(),
    onProgress: (progress) => {
      expect(progress.bytesTotal).toBe(bytesTotal)
      seen.push(progress.bytesDone)
    },
  })
  done.abort()
  await others
  expect(seen).toEqual(seen.toSorted((a, b) => a - b))
  expect(seen.at(-1)).toBe(bytesTotal)
  expect(turns).toBeGreaterThan(3)
})

test('can be cancelled', async () => {
  await using node = await TestNode.start()
  const { id } = await addTemplate(node.store)
  const cancel = new AbortController()
  const verifying = node.store.verify(id, {
    signal: cancel.signal,
    onProgress: () => cancel.abort(new Error('enough')),
  })
  await expect(verifying).rejects.toThrow('enough')
})
