import { randomBytes } from 'node:crypto'
import { chmod, open } from 'node:fs/promises'
import { expect, test } from 'vitest'
import { PAGE_BYTES } from '../../src/domain/page.ts'
import { serveTemplate } from '../../src/template/index.ts'
import { addTemplate, never, TestNode } from './fixture.ts'
import { drops, fetchFrom, type Lie, lyingPeer, TestPeer } from './peers.ts'

const CHANGED_PAGES = 200
const CHANGED_BYTES = CHANGED_PAGES * PAGE_BYTES
/** What makes the two templates similar: a chunk that both have. */
const COMMON = { 256: randomBytes(PAGE_BYTES) }

/** Two templates that differ in a word of each of 200 pages of noise; the target has the first. */
async function twoTemplates(
  source: TestNode,
  target: TestNode,
  before = randomBytes(CHANGED_BYTES),
): Promise<{ first: string; second: string }> {
  const after = Buffer.from(before)
  for (let at = 0; at < CHANGED_BYTES; at += PAGE_BYTES) after[at + 100]! ^= 1
  const { id: first } = await addTemplate(source.store, null, { noise: { 0: before, ...COMMON } })
  const { id: second } = await addTemplate(source.store, null, { noise: { 0: after, ...COMMON } })
  await fetchFrom(new TestPeer(serveTemplate(source.store)), target.store, first)
  return { first, second }
}

test('pages that are much like those of a template on both sides travel as differences', async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { second } = await twoTemplates(source, target)
  const { bytesReceived } = await fetchFrom(new TestPeer(serveTemplate(source.store)), target.store, second)
  expect(bytesReceived).toBeLessThan(CHANGED_BYTES / 50)
  expect(await target.store.verify(second, { signal: never() })).toEqual({ ok: true, damaged: [] })
})

test("one that begins as zstd's own dictionaries is none", async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const magic = Buffer.from('37a430ec', 'hex')
  const before = Buffer.concat([magic, randomBytes(CHANGED_BYTES - magic.length)])
  const { second } = await twoTemplates(source, target, before)
  await fetchFrom(new TestPeer(serveTemplate(source.store)), target.store, second)
  expect((await target.store.verify(second, { signal: never() })).ok).toBe(true)
})

test('from a node without that template they come as they are', async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { first, second } = await twoTemplates(source, target)
  await source.store.remove(first)
  const { bytesReceived } = await fetchFrom(new TestPeer(serveTemplate(source.store)), target.store, second)
  expect(bytesReceived).toBeGreaterThan(CHANGED_BYTES)
  expect((await target.store.verify(second, { signal: never() })).ok).toBe(true)
})

test('where it is damaged here, nobody is blamed, and they come as they are', async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { first, second } = await twoTemplates(source, target)
  const { ram } = target.store.files(first)
  await chmod(ram, 0o644)
  await using file = await open(ram, 'r+')
  await file.write(randomBytes(16), 0, 16, 5 * PAGE_BYTES + 100)
  const { dropped, onDropped } = drops()
  const peer = new TestPeer(serveTemplate(source.store))
  const { bytesReceived } = await fetchFrom(peer, target.store, second, { onDropped })
  expect(dropped).toEqual([])
  expect(bytesReceived).toBeGreaterThan(CHANGED_BYTES)
  expect((await target.store.verify(second, { signal: never() })).ok).toBe(true)
})

/** Says that what it sends is a difference. */
const pretends: Lie = (reply) =>
  'pages' in reply
    ? [{ pages: { pages: Buffer.from('no difference'), compressed: true, byDifference: true } }]
    : [reply]

test('who sends differences that are none is asked without them, and found out', async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { second } = await twoTemplates(source, target)
  const { dropped, onDropped } = drops()
  const liar = lyingPeer(source.store, pretends, 'liar')
  const peers = [liar, new TestPeer(serveTemplate(source.store), 'honest')]
  await fetchFrom(peers, target.store, second, { onDropped })
  expect(dropped).toMatchObject([{ peer: 'liar', code: 'TEMPLATE_MISMATCH' }])
  expect((await target.store.verify(second, { signal: never() })).ok).toBe(true)
})

test('a difference that nobody asked for is a lie', async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { id } = await addTemplate(source.store)
  const fetching = fetchFrom(lyingPeer(source.store, pretends), target.store, id)
  await expect(fetching).rejects.toMatchObject({ code: 'TEMPLATE_MISMATCH' })
})
