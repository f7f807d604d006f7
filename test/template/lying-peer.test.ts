import { readdir } from 'node:fs/promises'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { zstdCompressSync, zstdDecompressSync } from 'node:zlib'
import { expect, test } from 'vitest'
import { CHUNK_BYTES, PAGE_BYTES } from '../../src/domain/page.ts'
import { encodeManifest, serveTemplate, templateId } from '../../src/template/index.ts'
import { messageType } from '../../src/wire/schema.ts'
import {
  type ChunkData,
  type TemplateReply,
  templateReplyCodec,
  templateRequestCodec,
} from '../../src/wire/template-messages.ts'
import { channelPair } from '../support/channel-pair.ts'
import { addTemplate, codeOf, TestNode } from './fixture.ts'
import { fetchFrom, type Lie, lyingPeer, TestPeer } from './peers.ts'

/** Chunks 0 and 1 have a page each, chunk 2 has none. */
const LAST_CHUNK = 2
const BOMB_BYTES = 64 * 1024 * 1024

/** Says something else in place of each chunk. */
const ofChunks =
  (lie: (chunk: ChunkData) => ReturnType<Lie>): Lie =>
  (reply) =>
    'chunk' in reply ? lie(reply.chunk) : [reply]

/** Says something else in place of the first piece of each file. */
const ofFiles =
  (lie: (bytes: Buffer) => ReturnType<Lie>): Lie =>
  (reply) =>
    'file' in reply ? lie(Buffer.from(reply.file.bytes)) : [reply]

const ofManifest =
  (lie: (reply: TemplateReply) => ReturnType<Lie>): Lie =>
  (reply) =>
    'manifest' in reply ? lie(reply) : [reply]

const pagesOf = (chunk: ChunkData): Buffer =>
  Buffer.from(chunk.compressed ? zstdDecompressSync(chunk.pages) : chunk.pages)

const flipped = (bytes: Buffer): Buffer => {
  bytes[bytes.length - 1]! ^= 1
  return bytes
}

/** A message that the codec itself may refuse to take: protobuf alone wrote it. */
const raw = (plain: object): Uint8Array => {
  const type = messageType('drover.template.TemplateReply')
  return type.encode(type.fromObject(plain)).finish()
}

const changed = (chunk: ChunkData, change: Partial<ChunkData>): TemplateReply => ({
  chunk: { ...chunk, ...change },
})

test.each<[what: string, lie: Lie, code: string]>([
  ['no manifest', ofManifest(() => []), 'TEMPLATE_MISMATCH'],
  ['the manifest twice', ofManifest((reply) => [reply, reply]), 'TEMPLATE_MISMATCH'],
  [
    'a file in place of the manifest',
    ofManifest(() => [{ file: { bytes: Buffer.from('x') } }]),
    'TEMPLATE_MISMATCH',
  ],
  ['another manifest', ofManifest(() => [{ manifest: Buffer.from('x') }]), 'TEMPLATE_MISMATCH'],
  ['a manifest of 64 MiB', ofManifest(() => [{ manifest: Buffer.alloc(BOMB_BYTES) }]), 'MESSAGE_TOO_LARGE'],
  ['noise', ofManifest(() => [Buffer.alloc(100, 0xff)]), 'MESSAGE_MALFORMED'],
  ['nothing at all', ofManifest(() => [new Uint8Array()]), 'MESSAGE_MALFORMED'],
  [
    'a refusal with a terminal escape',
    ofManifest(() => [raw({ refusal: { code: 'X', message: '\x1b[2J' } })]),
    'MESSAGE_MALFORMED',
  ],

  ['another file', ofFiles((bytes) => [{ file: { bytes: flipped(bytes) } }]), 'TEMPLATE_MISMATCH'],
  [
    'a file that is too short',
    ofFiles((bytes) => [{ file: { bytes: bytes.subarray(1) } }]),
    'TEMPLATE_MISMATCH',
  ],
  ['a file without content', ofFiles(() => []), 'TEMPLATE_MISMATCH'],
  [
    'a file with one byte more',
    ofFiles((bytes) => [{ file: { bytes: Buffer.concat([bytes, bytes]) } }]),
    'TEMPLATE_MISMATCH',
  ],
  [
    'pieces of a file without an end',
    ofFiles((bytes) => Array(100).fill({ file: { bytes } })),
    'TEMPLATE_MISMATCH',
  ],
  ['empty pieces of a file', ofFiles(() => [{ file: { bytes: new Uint8Array() } }]), 'TEMPLATE_MISMATCH'],
  [
    'a piece of a file of 2 MiB',
    ofFiles(() => [raw({ file: { bytes: Buffer.alloc(2 * CHUNK_BYTES) } })]),
    'MESSAGE_TOO_LARGE',
  ],
  ['a manifest in place of a file', ofFiles(() => [{ manifest: Buffer.from('x') }]), 'TEMPLATE_MISMATCH'],

  ['no chunks', ofChunks(() => []), 'TEMPLATE_MISMATCH'],
  ['no last chunk', ofChunks((c) => (c.chunk === LAST_CHUNK ? [] : [{ chunk: c }])), 'TEMPLATE_MISMATCH'],
  ['a chunk left out', ofChunks((c) => (c.chunk === 1 ? [] : [{ chunk: c }])), 'TEMPLATE_MISMATCH'],
  ['each chunk twice', ofChunks((c) => [{ chunk: c }, { chunk: c }]), 'TEMPLATE_MISMATCH'],
  [
    'one chunk too many',
    ofChunks((c) => (c.chunk === LAST_CHUNK ? [{ chunk: c }, changed(c, { chunk: 3 })] : [{ chunk: c }])),
    'TEMPLATE_MISMATCH',
  ],
  ['a chunk far outside', ofChunks((c) => [changed(c, { chunk: 0xffffffff })]), 'TEMPLATE_MISMATCH'],
  [
    'a file in place of a chunk',
    ofChunks(() => [{ file: { bytes: Buffer.from('x') } }]),
    'TEMPLATE_MISMATCH',
  ],
  [
    'another page',
    ofChunks((c) => [changed(c, { pages: flipped(pagesOf(c)), compressed: false })]),
    'TEMPLATE_MISMATCH',
  ],
  [
    'a page elsewhere',
    ofChunks((c) => [changed(c, { pageOffsets: c.pageOffsets.map((offset) => offset + 1) })]),
    'TEMPLATE_MISMATCH',
  ],
  [
    'a chunk emptied',
    ofChunks((c) => [
      changed(c, { pageOffsets: new Uint8Array(), pages: new Uint8Array(), compressed: false }),
    ]),
    'TEMPLATE_MISMATCH',
  ],
  [
    'a page in the empty chunk',
    ofChunks((c) =>
      c.chunk === LAST_CHUNK
        ? [changed(c, { pageOffsets: Buffer.from([0]), pages: Buffer.alloc(PAGE_BYTES, 1) })]
        : [{ chunk: c }],
    ),
    'TEMPLATE_MISMATCH',
  ],
  [
    'more offsets than pages',
    ofChunks((c) => [
      raw({ chunk: { ...c, pageOffsets: Buffer.from([1, 2]), pages: pagesOf(c), compressed: false } }),
    ]),
    'MESSAGE_MALFORMED',
  ],
  [
    'offsets out of order',
    ofChunks((c) => [
      raw({ chunk: { ...c, pageOffsets: Buffer.from([2, 1]), pages: Buffer.alloc(2 * PAGE_BYTES) } }),
    ]),
    'MESSAGE_MALFORMED',
  ],
  [
    'an offset twice',
    ofChunks((c) => [
      raw({ chunk: { ...c, pageOffsets: Buffer.from([1, 1]), pages: Buffer.alloc(2 * PAGE_BYTES) } }),
    ]),
    'MESSAGE_MALFORMED',
  ],
  [
    '257 pages',
    ofChunks((c) => [raw({ chunk: { ...c, pageOffsets: Buffer.alloc(257), compressed: true } })]),
    'MESSAGE_MALFORMED',
  ],
  [
    'a chunk of 2 MiB',
    ofChunks((c) => [raw({ chunk: { ...c, pages: Buffer.alloc(2 * CHUNK_BYTES) } })]),
    'MESSAGE_TOO_LARGE',
  ],
  [
    'a decompression bomb',
    ofChunks((c) => [
      changed(c, {
        pageOffsets: Buffer.from([1]),
        pages: zstdCompressSync(Buffer.alloc(BOMB_BYTES)),
        compressed: true,
      }),
    ]),
    'TEMPLATE_MISMATCH',
  ],
  [
    'a bomb without pages',
    ofChunks((c) => [
      changed(c, {
        pageOffsets: new Uint8Array(),
        pages: zstdCompressSync(Buffer.alloc(BOMB_BYTES)),
        compressed: true,
      }),
    ]),
    'TEMPLATE_MISMATCH',
  ],
  [
    'fewer bytes than pages',
    ofChunks((c) => [changed(c, { pages: zstdCompressSync(Buffer.alloc(100)), compressed: true })]),
    'TEMPLATE_MISMATCH',
  ],
  [
    'zstd that is none',
    ofChunks((c) => [changed(c, { pages: Buffer.from('not zstd'), compressed: true })]),
    'TEMPLATE_MISMATCH',
  ],
])('a peer that sends %s is not believed, and nothing stays', async (_, lie, code) => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { id } = await addTemplate(source.store)
  expect(await codeOf(fetchFrom(lyingPeer(source.store, lie), target.store, id))).toBe(code)
  expect(target.store.list()).toEqual([])
  expect(await readdir(target.templatesDir)).toEqual([])
  // The harness alone changes nothing.
  await fetchFrom(
    lyingPeer(source.store, (reply) => [reply]),
    target.store,
    id,
  )
})

test('chunks in another order are not what was asked for', async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { id } = await addTemplate(source.store)
  const held: TemplateReply[] = []
  const lie = ofChunks((chunk) => {
    if (chunk.chunk > 0) return [{ chunk }, ...held.splice(0)]
    held.push(structuredClone({ chunk }))
    return []
  })
  expect(await codeOf(fetchFrom(lyingPeer(source.store, lie), target.store, id))).toBe('TEMPLATE_MISMATCH')
})

test.each<[what: string, wanted: 'file' | 'chunks', next: TemplateReply]>([
  ['pieces of a file', 'file', { file: { bytes: Buffer.from('more and more') } }],
  ['empty pieces of a file', 'file', { file: { bytes: new Uint8Array() } }],
  [
    'a chunk',
    'chunks',
    { chunk: { chunk: 0, pageOffsets: new Uint8Array(), pages: new Uint8Array(), compressed: false } },
  ],
])('a peer that sends %s for ever is stopped', async (_, wanted, next) => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  // Memory of zeros: chunk 0 is right, once.
  const { id } = await addTemplate(source.store, null, { pages: {} })
  const honest = serveTemplate(source.store)
  let stopped: unknown
  const peer = new TestPeer(async (channel, signal) => {
    const request = templateRequestCodec.decode((await channel.receive({ maxBytes: 256 }))!)
    if (wanted in request) {
      stopped = await codeOf(forEver(() => channel.send(templateReplyCodec.encode(next))))
      return
    }
    const [client, server] = channelPair()
    await client.send(templateRequestCodec.encode(request))
    const serving = honest(server, signal)
    for (;;) {
      const reply = await client.receive({ maxBytes: CHUNK_BYTES })
      if (reply === null) break
      await channel.send(reply)
    }
    await channel.close()
    await serving
  })
  expect(await codeOf(fetchFrom(peer, target.store, id))).toBe('TEMPLATE_MISMATCH')
  await peer.idle()
  expect(stopped).toBe('ERR_CHANNEL_RESET')
})

async function forEver(act: () => Promise<void>): Promise<never> {
  for (;;) {
    // In memory nothing ever waits: without this, a fetch that isn't stopped would stop the test's own clock.
    await nextTurn()
    await act()
  }
}

test('bytes that hash to the id are not yet a manifest', async () => {
  await using target = await TestNode.start()
  const bytes = Buffer.from('not a manifest')
  const peer = new TestPeer(async (channel) => {
    await channel.send(templateReplyCodec.encode({ manifest: bytes }))
    await channel.close()
  })
  expect(await codeOf(fetchFrom(peer, target.store, templateId(bytes)))).toBe('MANIFEST_MALFORMED')
})

test('a peer that resets the channel ends the fetch', async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { id } = await addTemplate(source.store)
  const peer = lyingPeer(source.store, (reply) => {
    if ('chunk' in reply) throw new Error('crash')
    return [reply]
  })
  expect(await codeOf(fetchFrom(peer, target.store, id))).toBe('ERR_CHANNEL_RESET')
  expect(await readdir(target.templatesDir)).toEqual([])
})

test('the manifest of another template that the peer has too is refused', async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { id } = await addTemplate(source.store)
  const other = await addTemplate(source.store, null, { kernel: 'with a back door' })
  const lie: Lie = ofManifest(() => [{ manifest: encodeManifest(other.manifest) }])
  expect(await codeOf(fetchFrom(lyingPeer(source.store, lie), target.store, id))).toBe('TEMPLATE_MISMATCH')
  expect((await fetchFrom(new TestPeer(serveTemplate(source.store)), target.store, other.id)).record.id).toBe(
    other.id,
  )
})
