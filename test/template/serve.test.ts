import { createHash } from 'node:crypto'
import { truncate } from 'node:fs/promises'
import { zstdDecompressSync } from 'node:zlib'
import { expect, test } from 'vitest'
import { bitmapOf } from '../../src/template/chunk-pages.ts'
import { serveTemplate, type TemplateStore, templateId } from '../../src/template/index.ts'
import { messageType } from '../../src/wire/schema.ts'
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
  await ours.close()
  const replies: TemplateReply[] = []
  for (;;) {
    const bytes = await ours.receive({ maxBytes: MAX_BYTES })
    if (bytes === null) break
    replies.push(structuredClone(templateReplyCodec.decode(bytes)))
  }
  await serving
  return replies
}

const bitmap = (...pages: number[]): Uint8Array => bitmapOf(pages)

test('answers with the part that was asked for', async () => {
  await using node = await TestNode.start()
  const { id } = await addTemplate(node.store)
  const whole = node.store.manifestBytes(id)
  const [manifest] = await ask(node.store, { templateId: id, manifest: { offsetBytes: 0 } })
  expect(manifest).toMatchObject({ manifest: { totalBytes: whole.length } })
  const { compressed } = (manifest as { manifest: { compressed: Uint8Array } }).manifest
  expect(zstdDecompressSync(compressed).equals(whole)).toBe(true)

  const [lists] = await ask(node.store, { templateId: id, pageHashes: { chunks: [1, 2], hashBytes: 5 } })
  const hash = createHash('sha256').update(Buffer.alloc(4096, 0x22)).digest()
  expect(lists).toEqual({
    pageHashes: {
      chunks: [
        { bitmap: bitmap(300 - 256), hashes: Uint8Array.from(hash.subarray(0, 5)) },
        { bitmap: bitmap(), hashes: new Uint8Array() },
      ],
    },
  })

  const chunks = [
    { chunk: 0, bitmap: bitmap(1) },
    { chunk: 1, bitmap: bitmap(44, 45) },
  ]
  const [pages] = await ask(node.store, { templateId: id, pages: { chunks } })
  expect(pages).toMatchObject({ pages: { compressed: true } })
  const content = zstdDecompressSync((pages as { pages: { pages: Uint8Array } }).pages.pages)
  const expected = [0x11, 0x22, 0].map((byte) => Buffer.alloc(4096, byte))
  expect(content.equals(Buffer.concat(expected))).toBe(true)
})

test('a file is chunks behind the memory, and reads as zeros beyond its end', async () => {
  await using node = await TestNode.start()
  const { id } = await addTemplate(node.store)
  const [reply] = await ask(node.store, {
    templateId: id,
    pages: { chunks: [{ chunk: CHUNKS, bitmap: bitmap(0) }] },
  })
  const content = Buffer.concat([Buffer.from('device state'), Buffer.alloc(4096 - 12)])
  expect(zstdDecompressSync((reply as { pages: { pages: Uint8Array } }).pages.pages).equals(content)).toBe(
    true,
  )
})

test('sends pages as they are when they do not get smaller', async () => {
  await using node = await TestNode.start()
  const noise = crypto.getRandomValues(new Uint8Array(4096))
  const { id } = await addTemplate(node.store, null, { pages: {}, noise: { 9: noise } })
  const chunks = [{ chunk: 0, bitmap: bitmap(9) }]
  const [reply] = await ask(node.store, { templateId: id, pages: { chunks } })
  expect(reply).toEqual({ pages: { pages: noise, compressed: false, byDifference: false } })
})

/** Memory, state, kernel and initrd. */
const ALL_CHUNKS = CHUNKS + 3

test.each<[what: string, wanted: (id: string) => TemplateRequest]>([
  [
    'a template that is not here',
    () => ({ templateId: templateId(new Uint8Array()), manifest: { offsetBytes: 0 } }),
  ],
  ['a part beyond its manifest', (id) => ({ templateId: id, manifest: { offsetBytes: 2 ** 40 } })],
  [
    'hashes of a chunk that it lacks',
    (id) => ({ templateId: id, pageHashes: { chunks: [0, ALL_CHUNKS], hashBytes: 32 } }),
  ],
  [
    'pages of a chunk that it lacks',
    (id) => ({ templateId: id, pages: { chunks: [{ chunk: 0xffffffff, bitmap: bitmap(0) }] } }),
  ],
])('refuses %s', async (_, wanted) => {
  await using node = await TestNode.start()
  const { id } = await addTemplate(node.store)
  expect(await ask(node.store, wanted(id))).toMatchObject([{ refusal: { code: 'TEMPLATE_NOT_FOUND' } }])
})

test('says so when its own copy ends early', async () => {
  await using node = await TestNode.start()
  const { id } = await addTemplate(node.store)
  await truncate(node.store.files(id).ram, 2 * 1024 * 1024)
  const chunks = [{ chunk: 2, bitmap: bitmap(0) }]
  const replies = await ask(node.store, { templateId: id, pages: { chunks } })
  expect(replies).toMatchObject([{ refusal: { code: 'TEMPLATE_DAMAGED' } }])
})

test('does not serve a draft', async () => {
  await using node = await TestNode.start()
  await using draft = await node.store.begin()
  await fill(draft)
  const { id } = await addTemplate(node.store)
  await node.store.remove(id)
  const request = { templateId: id, manifest: { offsetBytes: 0 } }
  expect(await ask(node.store, request)).toMatchObject([{ refusal: {} }])
})

test('serves to the end what is removed meanwhile', async () => {
  await using node = await TestNode.start()
  const { id } = await addTemplate(node.store)
  const [ours, theirs] = channelPair()
  const serving = serveTemplate(node.store)(theirs, never())
  const askFor = async (chunk: number) => {
    const request = { templateId: id, pages: { chunks: [{ chunk, bitmap: bitmap(0) }] } }
    await ours.send(templateRequestCodec.encode(request))
    return templateReplyCodec.decode((await ours.receive({ maxBytes: MAX_BYTES }))!)
  }
  expect(await askFor(0)).toHaveProperty('pages')
  await node.store.remove(id)
  for (let chunk = 1; chunk < ALL_CHUNKS; chunk++) expect(await askFor(chunk)).toHaveProperty('pages')
  await ours.close()
  await serving
})

const requestOf = (id: string, wanted: object): Uint8Array => {
  const type = messageType('drover.template.TemplateRequest')
  return type.encode(type.fromObject({ templateId: id, ...wanted })).finish()
}
const pagesRequest = (id: string, chunks: object[]): Uint8Array => requestOf(id, { pages: { chunks } })
const all = new Uint8Array(32).fill(0xff)

test.each<[what: string, code: string, bytes: (id: string) => Uint8Array | null]>([
  ['sends noise', 'MESSAGE_MALFORMED', () => Buffer.alloc(50, 0xff)],
  ['asks for a path', 'MESSAGE_MALFORMED', () => Buffer.from('\x0a\x09../../etc\x2a\x00', 'latin1')],
  ['asks for nothing', 'MESSAGE_MALFORMED', (id) => requestOf(id, {})],
  [
    'asks for a shorter bitmap',
    'MESSAGE_MALFORMED',
    (id) => pagesRequest(id, [{ chunk: 0, bitmap: all.subarray(1) }]),
  ],
  [
    'asks for a longer bitmap',
    'MESSAGE_MALFORMED',
    (id) => pagesRequest(id, [{ chunk: 0, bitmap: new Uint8Array(33).fill(1) }]),
  ],
  [
    'asks for no page',
    'MESSAGE_MALFORMED',
    (id) => pagesRequest(id, [{ chunk: 0, bitmap: new Uint8Array(32) }]),
  ],
  [
    'asks for two chunks at once',
    'MESSAGE_MALFORMED',
    (id) =>
      pagesRequest(id, [
        { chunk: 0, bitmap: all },
        { chunk: 1, bitmap: all },
      ]),
  ],
  [
    'asks for a chunk twice',
    'MESSAGE_MALFORMED',
    (id) =>
      pagesRequest(id, [
        { chunk: 1, bitmap: bitmap(1) },
        { chunk: 1, bitmap: bitmap(2) },
      ]),
  ],
  [
    'asks for short hashes',
    'MESSAGE_MALFORMED',
    (id) => requestOf(id, { pageHashes: { chunks: [0], hashBytes: 1 } }),
  ],
  [
    'asks for 65 lists',
    'MESSAGE_MALFORMED',
    (id) => requestOf(id, { pageHashes: { chunks: [...Array(65).keys()], hashBytes: 5 } }),
  ],
  ['sends too much', 'MESSAGE_TOO_LARGE', () => Buffer.alloc(16 * 1024 + 1)],
  ['says nothing', 'TEMPLATE_TIMEOUT', () => null],
])('resets the channel of a peer that %s', async (_, code, bytes) => {
  await using node = await TestNode.start()
  const { id } = await addTemplate(node.store)
  const [ours, theirs] = channelPair()
  const serving = codeOf(serveTemplate(node.store, { idleTimeoutMs: 100 })(theirs, never()))
  const request = bytes(id)
  if (request !== null) await ours.send(request)
  expect(await serving).toBe(code)
  expect(await codeOf(ours.receive({ maxBytes: MAX_BYTES }))).toBe('ERR_CHANNEL_RESET')
})

test('gives up a peer that takes nothing', async () => {
  await using node = await TestNode.start()
  const { id } = await addTemplate(node.store)
  const [ours, theirs] = channelPair({ maxBufferedBytes: 100 })
  const serving = codeOf(
    serveTemplate(node.store, { frameTimeoutMs: 100, idleTimeoutMs: 200 })(theirs, never()),
  )
  const request = { templateId: id, pageHashes: { chunks: [0, 1, 2], hashBytes: 32 } }
  await ours.send(templateRequestCodec.encode(request))
  expect(await serving).toBe('TEMPLATE_TIMEOUT')
})

test('a peer that closes without a request is no failure', async () => {
  await using node = await TestNode.start()
  const [ours, theirs] = channelPair()
  await ours.close()
  await serveTemplate(node.store)(theirs, never())
})
