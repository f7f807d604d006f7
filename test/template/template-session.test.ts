import { expect, test } from 'vitest'
import { PAGE_BYTES } from '../../src/domain/page.ts'
import { bitmapOf } from '../../src/template/chunk-pages.ts'
import { serveTemplate } from '../../src/template/index.ts'
import { TemplateSession } from '../../src/template/template-session.ts'
import { addTemplate, codeOf, never, TestNode } from './fixture.ts'
import { lyingPeer, TestPeer } from './peers.ts'

test('requests overlap, and each gets its own answer', async () => {
  await using source = await TestNode.start()
  const { id } = await addTemplate(source.store, null, { pages: { 1: 0x11, 2: 0x22, 300: 0x33 } })
  const peer = new TestPeer(serveTemplate(source.store))
  const session = await TemplateSession.open(peer, { templateId: id, signal: never() })
  const page = (chunk: number, index: number) => session.pages([{ chunk, bitmap: bitmapOf([index]) }])
  const [manifest, hashes, second, third] = await Promise.all([
    session.manifestBytes(),
    session.pageHashes([0, 2], 32),
    page(0, 2),
    page(1, 300 - 256),
  ])
  expect(manifest.equals(source.store.manifestBytes(id))).toBe(true)
  expect(hashes.map(({ hashes: { length } }) => length)).toEqual([64, 0])
  expect(second.equals(Buffer.alloc(PAGE_BYTES, 0x22))).toBe(true)
  expect(third.equals(Buffer.alloc(PAGE_BYTES, 0x33))).toBe(true)
  expect(peer.channels).toHaveLength(1)
  await session.close()
  await peer.idle()
})

test('after a failure nothing more is taken for an answer', async () => {
  await using source = await TestNode.start()
  const { id } = await addTemplate(source.store)
  const peer = lyingPeer(source.store, (reply, _, n) => (n === 0 ? [Buffer.alloc(10, 0xff)] : [reply]))
  const session = await TemplateSession.open(peer, { templateId: id, signal: never(), frameTimeoutMs: 200 })
  expect(await codeOf(session.pageHashes([0], 5))).toBe('MESSAGE_MALFORMED')
  session.abort(new Error('ended early'))
  expect(await codeOf(session.pageHashes([1], 5))).not.toBe('resolved')
})
