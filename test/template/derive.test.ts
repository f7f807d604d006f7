import { randomBytes } from 'node:crypto'
import { open, readdir, readFile, stat, statfs, writeFile } from 'node:fs/promises'
import { afterAll, expect, test } from 'vitest'
import { CHUNK_BYTES, CHUNK_PAGES, PAGE_BYTES } from '../../src/domain/page.ts'
import type { TemplateRecord } from '../../src/domain/template.ts'
import { DerivedTemplate, type DeriveOptions } from '../../src/template/index.ts'
import { mountReflinks } from '../support/reflink-mount.ts'
import { addTemplate, codeOf, fill, machine, never, TestNode } from './fixture.ts'

const STATE = Buffer.from('device state of the VM')

function page(byte: number): Buffer {
  return Buffer.alloc(PAGE_BYTES, byte)
}

function derive(node: TestNode, parent: TemplateRecord, options: Partial<DeriveOptions> = {}) {
  return DerivedTemplate.open(node.store, parent.id, { ownPages: 8, signal: never(), ...options })
}

async function allocatedBytes(path: string): Promise<number> {
  return (await stat(path)).blocks * 512
}

/** Chunks whose hashes two templates have in common, by index. */
function sharedChunks(a: TemplateRecord, b: TemplateRecord): number[] {
  const hashes = b.manifest.chunkHashes
  return a.manifest.chunkHashes.flatMap((hash, chunk) =>
    Buffer.compare(hash, hashes[chunk]!) === 0 ? [chunk] : [],
  )
}

async function expectWhole(node: TestNode, ...templates: TemplateRecord[]): Promise<void> {
  for (const { id } of templates) {
    expect(await node.store.verify(id, { signal: never() })).toEqual({ ok: true, damaged: [] })
  }
}

test('holds what was written over its parent, and shares all else by hash', async () => {
  await using node = await TestNode.start()
  const parent = await addTemplate(node.store, 'parent')
  const parentRam = await readFile(node.store.files(parent.id).ram)
  await using derived = await derive(node, parent)
  // Two runs in chunk 1; of the first its middle is as it was, and page 400 becomes so again.
  await derived.write(299, Buffer.concat([page(1), page(0x22), page(3)]))
  await derived.write(400, page(4))
  await derived.write(400, page(0))
  // Chunk 2: nothing but what is there.
  await derived.write(2 * CHUNK_PAGES, Buffer.alloc(4 * PAGE_BYTES))
  const { record, changedPages } = await derived.seal('child', STATE, { signal: never() })

  expect(changedPages).toBe(2)
  expect(record.id).not.toBe(parent.id)
  expect(record.names).toEqual(['child'])
  expect(record.manifest).toMatchObject({
    machine,
    sizes: { ...parent.manifest.sizes, state: STATE.length },
  })
  // Of memory, and kernel and initrd.
  expect(sharedChunks(record, parent)).toEqual([0, 2, 4, 5])
  const files = node.store.files(record.id)
  const expected = Buffer.from(parentRam)
  page(1).copy(expected, 299 * PAGE_BYTES)
  page(3).copy(expected, 301 * PAGE_BYTES)
  expect((await readFile(files.ram)).equals(expected)).toBe(true)
  expect(await readFile(files.state)).toEqual(STATE)
  expect((await readFile(node.store.files(parent.id).ram)).equals(parentRam)).toBe(true)
  await expectWhole(node, parent, record)
})

test('its hashes are those of the same content that was hashed from the start', async () => {
  await using node = await TestNode.start()
  const parent = await addTemplate(node.store)
  await using derived = await derive(node, parent)
  await derived.write(0, Buffer.concat([page(9), page(0)]))
  await derived.write(767, page(7))
  const { record } = await derived.seal('child', STATE, { signal: never() })
  const draft = await node.store.begin()
  await fill(draft, { pages: { 0: 9, 300: 0x22, 767: 7 } })
  await writeFile(draft.files.state, STATE)
  expect((await draft.seal(machine, null, { signal: never() })).id).toBe(record.id)
})

test('a derived template is a parent as good as any, and outlives its own', async () => {
  await using node = await TestNode.start()
  const first = await addTemplate(node.store, 'first')
  await using second = await derive(node, first)
  await second.write(5, page(5))
  const { record } = await second.seal('second', STATE, { signal: never() })
  await using third = await derive(node, record)
  await third.write(600, page(6))
  const { record: last, changedPages } = await third.seal('third', Buffer.from('another state'), {
    signal: never(),
  })
  expect(changedPages).toBe(1)
  await node.store.remove('first')
  await node.restart()
  expect(node.store.list().map(({ names }) => names)).toEqual([['second'], ['third']])
  await expectWhole(node, record, last)
})

test('holes stay holes, and kernel and initrd are one file with the parent', async () => {
  await using node = await TestNode.start()
  const parent = await addTemplate(node.store)
  await using derived = await derive(node, parent)
  await derived.write(CHUNK_PAGES * 2, page(8))
  const { record } = await derived.seal('child', STATE, { signal: never() })
  const [of, from] = [node.store.files(record.id), node.store.files(parent.id)]
  expect((await stat(of.ram)).size).toBe(machine.memoryBytes)
  expect(await allocatedBytes(of.ram)).toBeLessThanOrEqual((await allocatedBytes(from.ram)) + PAGE_BYTES)
  expect((await stat(of.kernel)).ino).toBe((await stat(from.kernel)).ino)
  expect((await stat(of.initrd!)).ino).toBe((await stat(from.initrd!)).ino)
  for (const path of [of.ram, of.pageHashes, of.state, of.kernel, of.manifest]) {
    expect((await stat(path)).mode & 0o777).toBe(0o444)
  }
})

test('copying is told of, where there is something to copy', async () => {
  await using node = await TestNode.start()
  const parent = await addTemplate(node.store)
  const told: number[] = []
  await using _derived = await derive(node, parent, { onCopied: ({ bytesDone }) => told.push(bytesDone) })
  // On a file system with reflinks nothing is copied.
  if (told.length > 0) expect(told).toEqual([1, 2, 3].map((chunks) => chunks * CHUNK_BYTES))
})

test.each<[what: string, options: Partial<DeriveOptions>, code: string]>([
  ['there is no room', { ownPages: 2 ** 40 }, 'DISK_FULL'],
  ['it is cancelled', { signal: AbortSignal.abort(new TypeError('cancelled')) }, 'TypeError'],
])('nothing is left when %s', async (_, options, code) => {
  await using node = await TestNode.start()
  const parent = await addTemplate(node.store)
  const opened = derive(node, parent, options)
  const outcome = await codeOf(
    opened.then(async (derived) => {
      await using _derived = derived
      await derived.seal('child', STATE, { signal: options.signal ?? never() })
    }),
  )
  expect(outcome).toBe(code)
  expect(await readdir(node.templatesDir)).toEqual([parent.id])
})

test('nothing is left of one that is not sealed, nor of one that a crash left', async () => {
  await using node = await TestNode.start()
  const parent = await addTemplate(node.store)
  {
    await using derived = await derive(node, parent)
    await derived.write(1, page(2))
    expect(await readdir(node.templatesDir)).toHaveLength(2)
  }
  expect(await readdir(node.templatesDir)).toEqual([parent.id])
  await using left = await derive(node, parent)
  await left.write(1, page(2))
  await node.restart()
  expect(await readdir(node.templatesDir)).toEqual([parent.id])
  await expectWhole(node, parent)
})

test("a parent's damage is not passed on as content", async () => {
  await using node = await TestNode.start()
  const parent = await addTemplate(node.store)
  const { ram, pageHashes } = node.store.files(parent.id)
  await damage(ram, 300 * PAGE_BYTES)
  await using derived = await derive(node, parent)
  await derived.write(301, page(1))
  const { record } = await derived.seal('child', STATE, { signal: never() })
  expect(await node.store.verify(record.id, { signal: never() })).toEqual({
    ok: false,
    damaged: [{ file: 'ram', pages: [300] }],
  })

  await damage(pageHashes, CHUNK_PAGES * 32)
  await using refused = await derive(node, parent)
  await refused.write(302, page(1))
  expect(await codeOf(refused.seal('other', STATE, { signal: never() }))).toBe('TEMPLATE_DAMAGED')
})

async function damage(path: string, position: number): Promise<void> {
  await using file = await open(path, 'r+')
  await file.write(Buffer.from('damaged'), 0, 7, position)
}

const reflinks = await mountReflinks()
afterAll(async () => {
  if (typeof reflinks !== 'string') await reflinks[Symbol.asyncDispose]()
})

test('where the file system can, unchanged pages are on the disk once', async ({ skip }) => {
  if (typeof reflinks === 'string') return skip(reflinks)
  const { path } = reflinks
  await using node = await TestNode.start(path)
  const memoryBytes = 64 * CHUNK_BYTES
  const draft = await node.store.begin()
  await fill(draft)
  {
    await using ram = await open(draft.files.ram, 'w')
    await ram.truncate(memoryBytes)
    await ram.write(randomBytes(memoryBytes / 2))
  }
  const parent = await draft.seal({ ...machine, memoryBytes }, 'parent', { signal: never() })
  const freeBefore = await freeBytes(path)
  const told: number[] = []
  const onCopied = ({ bytesDone }: { bytesDone: number }) => told.push(bytesDone)
  await using derived = await derive(node, parent, { onCopied })
  for (const index of [3, 4000, 16_000]) await derived.write(index, page(1))
  const { record, changedPages } = await derived.seal('child', STATE, { signal: never() })
  expect(changedPages).toBe(3)
  expect(told).toEqual([])
  expect(freeBefore - (await freeBytes(path))).toBeLessThan(2 * CHUNK_BYTES)
  expect(sharedChunks(record, parent)).toHaveLength(63)
  await expectWhole(node, parent, record)
})

async function freeBytes(path: string): Promise<number> {
  const { bfree, bsize } = await statfs(path)
  return bfree * bsize
}
