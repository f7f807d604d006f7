/** What a fetch does to the disk: a full one, and one with reflinks. */
import { randomBytes } from 'node:crypto'
import { rmSync } from 'node:fs'
import { open, readdir, statfs, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { CHUNK_BYTES } from '../../src/domain/page.ts'
import { serveTemplate } from '../../src/template/index.ts'
import { mountReflinks, type ReflinkMount } from '../support/reflink-mount.ts'
import { SmallDisk } from '../support/small-disk.ts'
import { addTemplate, codeOf, fill, machine, never, TestNode } from './fixture.ts'
import { fetchFrom, lyingPeer, TestPeer } from './peers.ts'

let reflinks: ReflinkMount | string
beforeAll(async () => {
  reflinks = await mountReflinks()
})
afterAll(async () => {
  if (typeof reflinks !== 'string') await reflinks[Symbol.asyncDispose]()
})

test('a disk that others fill meanwhile ends the fetch, and nothing of it stays there', async ({ skip }) => {
  const mounted = await SmallDisk.mount(64)
  if (typeof mounted === 'string') return skip(mounted)
  await using disk = mounted
  await using source = await TestNode.start()
  await using target = await TestNode.start(disk.path)
  const noise = Object.fromEntries([0, 1, 2].map((chunk) => [chunk * 256, randomBytes(CHUNK_BYTES)]))
  const { id } = await addTemplate(source.store, null, { noise })
  let isFull = false
  const peer = lyingPeer(source.store, async (reply) => {
    if ('pages' in reply && !isFull) {
      isFull = true
      await disk.fill({ leavingBytes: 4096 })
    }
    return [reply]
  })
  expect(await codeOf(fetchFrom(peer, target.store, id))).toBe('DISK_FULL')
  expect(await readdir(target.templatesDir)).toEqual([])
  await disk.free()
  await fetchFrom(new TestPeer(serveTemplate(source.store)), target.store, id)
  expect((await target.store.verify(id, { signal: never() })).ok).toBe(true)
})

test('on a disk that is too full what others gave up for it is used', async ({ skip }) => {
  const mounted = await SmallDisk.mount(64)
  if (typeof mounted === 'string') return skip(mounted)
  await using disk = mounted
  await using source = await TestNode.start()
  await using target = await TestNode.start(disk.path)
  const { id } = await addTemplate(source.store, null, { noise: { 0: randomBytes(CHUNK_BYTES) } })
  const spare = join(disk.path, 'spare')
  await writeFile(spare, Buffer.alloc(40 * CHUNK_BYTES))
  const peer = new TestPeer(serveTemplate(source.store))
  expect(await codeOf(fetchFrom(peer, target.store, id))).toBe('DISK_FULL')
  target.onDiskShort = () => {
    rmSync(spare)
    return true
  }
  await fetchFrom(peer, target.store, id)
  expect((await target.store.verify(id, { signal: never() })).ok).toBe(true)
})

test('where the file system can, a fetched template shares with its sibling on disk what both hold', async ({
  skip,
}) => {
  if (typeof reflinks === 'string') return skip(reflinks)
  const { path } = reflinks
  await using source = await TestNode.start()
  await using target = await TestNode.start(path)
  const content = randomBytes(32 * CHUNK_BYTES)
  const seal = async (node: TestNode, change: (ram: Buffer) => void) => {
    const ram = Buffer.concat([content, Buffer.alloc(32 * CHUNK_BYTES)])
    change(ram)
    const draft = await node.store.begin()
    await fill(draft)
    await using file = await open(draft.files.ram, 'w')
    await file.write(ram)
    return draft.seal({ ...machine, memoryBytes: ram.length }, null, { signal: never() })
  }
  await seal(target, () => {})
  // A page of its own, and zeros where the sibling has data.
  const { id } = await seal(source, (ram) =>
    ram.fill(7, 4096, 8192).fill(0, 5 * CHUNK_BYTES, 5 * CHUNK_BYTES + 4096),
  )
  const freeBytes = async () => {
    const { bfree, bsize } = await statfs(path)
    return bfree * bsize
  }
  const before = await freeBytes()
  const { bytesReceived } = await fetchFrom(new TestPeer(serveTemplate(source.store)), target.store, id)
  expect(before - (await freeBytes())).toBeLessThan(4 * CHUNK_BYTES)
  expect(bytesReceived).toBeLessThan(20_000)
  expect((await target.store.verify(id, { signal: never() })).ok).toBe(true)
})
