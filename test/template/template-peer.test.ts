import { expect, test } from 'vitest'
import { serveTemplate } from '../../src/template/index.ts'
import { TemplatePeer } from '../../src/template/template-peer.ts'
import { addTemplate, CHUNKS, codeOf, never, TestNode } from './fixture.ts'
import { lyingPeer, TestPeer } from './peers.ts'

async function indices(peer: TemplatePeer, range: { first: number; end: number }): Promise<number[]> {
  const received: number[] = []
  for await (const { chunk } of peer.chunks(range, never())) received.push(chunk)
  return received
}

test('asks for a part of the chunks', async () => {
  await using source = await TestNode.start()
  const { id } = await addTemplate(source.store)
  const { open } = new TestPeer(serveTemplate(source.store))
  const peer = new TemplatePeer({ open }, { templateId: id })
  expect(await indices(peer, { first: 1, end: 2 })).toEqual([1])
  expect(await indices(peer, { first: 0, end: CHUNKS })).toEqual([0, 1, 2])
})

test('takes no chunk beyond the part that it asked for', async () => {
  await using source = await TestNode.start()
  const { id } = await addTemplate(source.store)
  const { open } = lyingPeer(source.store, (reply) => {
    if (!('chunk' in reply)) return [reply]
    return [reply, { chunk: { ...reply.chunk, chunk: reply.chunk.chunk + 1 } }]
  })
  const peer = new TemplatePeer({ open }, { templateId: id })
  expect(await codeOf(indices(peer, { first: 0, end: 1 }))).toBe('TEMPLATE_MISMATCH')
})

test('a reader that stops early resets the channel', async () => {
  await using source = await TestNode.start()
  const { id } = await addTemplate(source.store)
  const network = new TestPeer(serveTemplate(source.store))
  const peer = new TemplatePeer({ open: network.open }, { templateId: id })
  for await (const _ of peer.chunks({ first: 0, end: CHUNKS }, never())) break
  await expect(network.channels[0]!.receive({ maxBytes: 1 })).rejects.toThrow('ended early')
})
