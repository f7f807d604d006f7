import { truncate } from 'node:fs/promises'
import { expect, test } from 'vitest'
import { serveTemplate, type TemplateStore, templateId } from '../../src/template/index.ts'
import type { Channel } from '../../src/wire/channel.ts'
import {
  type TemplateReply,
  type TemplateRequest,
  templateReplyCodec,
  templateRequestCodec,
} from '../../src/wire/template-messages.ts'
import { channelPair } from '../support/channel-pair.ts'
import { addTemplate, CHUNKS, codeOf, fill, never, TestNode } from './fixture.ts'

const MAX_BYTES = 4 * 1024 * 1024

/** All replies to one request. */
async function ask(store: TemplateStore, request: TemplateRequest): Promise<TemplateReply[]> {
  const [ours, theirs] = channelPair()
  const serving = serveTemplate(store)(theirs, never())
  await ours.send(templateRequestCodec.encode(request))
  const replies: TemplateReply[] = []
  for (;;) {
    const bytes = await ours.receive({ maxBytes: MAX_BYTES })
    if (bytes === null) break
    replies.push(structuredClone(templateReplyCodec.decode(bytes)))
  }
  await serving
  return replies
}

test('answers with the part that was asked for', async () => {
  await using node = await TestNode.start()
  const { id } = await addTemplate(node.store)
  expect(await ask(node.store, { templateId: id, manifest: {} })).toEqual([
    { manifest: Uint8Array.from(node.store.manifestBytes(id)) },
  ])
  const [file] = await ask(node.store, { templateId: id, file: { file: 'state' } })
  expect(file).toEqual({ file: { bytes: Uint8Array.from(Buffer.from('device state')) } })
  const chunks = await ask(node.store, { templateId: id, chunks: { firstChunk: 1, endChunk: CHUNKS } })
  expect(chunks).toMatchObject([
    { chunk: { chunk: 1, pageOffsets: Uint8Array.of(300 - 256), compressed: true } },
    { chunk: { chunk: 2, pageOffsets: new Uint8Array(), pages: new Uint8Array(), compressed: false } },
  ])
})

test('sends pages as they are when they do not get smaller', async () => {
  await using node = await TestNode.start()
  const noise = crypto.getRandomValues(new Uint8Array(4096))
  const { id } = await addTemplate(node.store, null, { pages: {}, noise: { 9: noise } })
  const [reply] = await ask(node.store, { templateId: id, chunks: { firstChunk: 0, endChunk: 1 } })
  expect(reply).toEqual({
    chunk: { chunk: 0, pageOffsets: Uint8Array.of(9), pages: noise, compressed: false },
  })
})

test.each<[what: string, wanted: (id: string) => TemplateRequest]>([
  ['a template that is not here', () => ({ templateId: templateId(new Uint8Array()), manifest: {} })],
  ['a file that the template lacks', (id) => ({ templateId: id, file: { file: 'disk' } })],
  ['chunks beyond its memory', (id) => ({ templateId: id, chunks: { firstChunk: 0, endChunk: CHUNKS + 1 } })],
])('refuses %s', async (_, wanted) => {
  await using node = await TestNode.start()
  const { id } = await addTemplate(node.store)
  expect(await ask(node.store, wanted(id))).toMatchObject([{ refusal: { code: 'TEMPLATE_NOT_FOUND' } }])
})

test('says so when its own copy ends early', async () => {
  await using node = await TestNode.start()
  const { id } = await addTemplate(node.store)
  await truncate(node.store.files(id).ram, 2 * 1024 * 1024)
  const replies = await ask(node.store, { templateId: id, chunks: { firstChunk: 0, endChunk: CHUNKS } })
  expect(replies.at(-1)).toMatchObject({ refusal: { code: 'TEMPLATE_DAMAGED' } })
})

test('does not serve a draft', async () => {
  await using node = await TestNode.start()
  await using draft = await node.store.begin()
  await fill(draft)
  const { id } = await addTemplate(node.store)
  await node.store.remove(id)
  expect(await ask(node.store, { templateId: id, manifest: {} })).toMatchObject([{ refusal: {} }])
})

test('serves to the end what is removed meanwhile', async () => {
  await using node = await TestNode.start()
  const { id } = await addTemplate(node.store)
  const [ours, theirs] = channelPair({ maxBufferedBytes: 0 })
  const serving = serveTemplate(node.store)(theirs, never())
  const sent = ours.send(
    templateRequestCodec.encode({ templateId: id, chunks: { firstChunk: 0, endChunk: CHUNKS } }),
  )
  expect(await ours.receive({ maxBytes: MAX_BYTES })).not.toBeNull()
  await sent
  await node.store.remove(id)
  for (let chunk = 1; chunk < CHUNKS; chunk++)
    expect(await ours.receive({ maxBytes: MAX_BYTES })).not.toBeNull()
  expect(await ours.receive({ maxBytes: MAX_BYTES })).toBeNull()
  await serving
})

test.each<[what: string, code: string, act: (channel: Channel) => Promise<void>]>([
  ['sends noise', 'MESSAGE_MALFORMED', (channel) => channel.send(Buffer.alloc(50, 0xff))],
  [
    'asks for a path',
    'MESSAGE_MALFORMED',
    (channel) => channel.send(Buffer.from('\x0a\x09../../etc\x12\x00', 'latin1')),
  ],
  ['sends too much', 'MESSAGE_TOO_LARGE', (channel) => channel.send(Buffer.alloc(257))],
  ['says nothing', 'TEMPLATE_TIMEOUT', async () => {}],
])('resets the channel of a peer that %s', async (_, code, act) => {
  await using node = await TestNode.start()
  const [ours, theirs] = channelPair()
  const serving = codeOf(serveTemplate(node.store, { frameTimeoutMs: 100 })(theirs, never()))
  await act(ours)
  expect(await serving).toBe(code)
  expect(await codeOf(ours.receive({ maxBytes: MAX_BYTES }))).toBe('ERR_CHANNEL_RESET')
})

test('gives up a peer that takes nothing', async () => {
  await using node = await TestNode.start()
  const { id } = await addTemplate(node.store)
  const [ours, theirs] = channelPair({ maxBufferedBytes: 16 })
  const request = templateRequestCodec.encode({ templateId: id, chunks: { firstChunk: 0, endChunk: CHUNKS } })
  const serving = codeOf(serveTemplate(node.store, { frameTimeoutMs: 100 })(theirs, never()))
  await ours.send(request)
  expect(await serving).toBe('TEMPLATE_TIMEOUT')
})

test('a peer that closes without a request is no failure', async () => {
  await using node = await TestNode.start()
  const [ours, theirs] = channelPair()
  await ours.close()
  await serveTemplate(node.store)(theirs, never())
})
