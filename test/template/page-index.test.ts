import { createHash, randomBytes } from 'node:crypto'
import { expect, test } from 'vitest'
import { PAGE_BYTES } from '../../src/domain/page.ts'
import { keyOf } from '../../src/template/page-index.ts'
import { addTemplate, TestNode } from './fixture.ts'

const key = (page: Uint8Array): number => keyOf(createHash('sha256').update(page).digest())
const page = (byte: number): Buffer => Buffer.alloc(PAGE_BYTES, byte)

test('finds a page of any template, and none of zeros', async () => {
  await using node = await TestNode.start()
  const one = await addTemplate(node.store, 'one', { pages: { 3: 0x11 } })
  const two = await addTemplate(node.store, 'two', { pages: { 700: 0x22 } })
  const keys = [page(0x11), page(0x22), page(0), page(0x33)].map(key)
  expect(await node.store.pageIndex.find(keys)).toEqual([
    { id: one.id, page: 3 },
    { id: two.id, page: 700 },
    undefined,
    undefined,
  ])
})

test('of a page that two templates share, the one that stays is named', async () => {
  await using node = await TestNode.start()
  const one = await addTemplate(node.store, 'one', { pages: { 3: 0x11, 4: 0x44 } })
  const two = await addTemplate(node.store, 'two', { pages: { 9: 0x11 } })
  await node.store.remove(two.id)
  expect(await node.store.pageIndex.find([key(page(0x11))])).toEqual([{ id: one.id, page: 3 }])
  await node.store.remove(one.id)
  expect(await node.store.pageIndex.find([key(page(0x11)), key(page(0x44))])).toEqual([undefined, undefined])
})

test('what an agent that died did not enter, the next one does', async () => {
  await using node = await TestNode.start()
  const noise = randomBytes(PAGE_BYTES)
  const { id } = await addTemplate(node.store, 'one', { noise: { 5: noise } })
  await node.store.pageIndex.settled()
  await node.restart(async () => {})
  await node.db.sublevel('pages').clear()
  await node.db.sublevel('indexed').clear()
  expect(await node.store.pageIndex.find([key(noise)])).toEqual([undefined])
  await node.restart()
  expect(await node.store.pageIndex.find([key(noise)])).toEqual([{ id, page: 5 }])
})
