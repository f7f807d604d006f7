import { randomBytes } from 'node:crypto'
import { readdir } from 'node:fs/promises'
import { zstdCompressSync, zstdDecompressSync } from 'node:zlib'
import { expect, test } from 'vitest'
import { CHUNK_BYTES, PAGE_BYTES } from '../../src/domain/page.ts'
import { encodeManifest, serveTemplate, templateId } from '../../src/template/index.ts'
import { messageType } from '../../src/wire/schema.ts'
import type { ChunkHashes, TemplateReply, TemplateRequest } from '../../src/wire/template-messages.ts'
import { addTemplate, codeOf, TestNode } from './fixture.ts'
import { drops, fetchFrom, type Lie, lyingPeer, TestPeer } from './peers.ts'

const BOMB_BYTES = 64 * 1024 * 1024

type Pages = { pages: Uint8Array; compressed: boolean }

const ofManifest =
  (lie: (manifest: { totalBytes: number; compressed: Uint8Array }) => Awaited<ReturnType<Lie>>): Lie =>
  (reply) =>
    'manifest' in reply ? lie(reply.manifest) : [reply]

/** Says something else in place of the first bytes of page hashes; whole hashes are told honestly. */
const ofLists =
  (lie: (lists: ChunkHashes[]) => Awaited<ReturnType<Lie>>): Lie =>
  (reply, request) =>
    'pageHashes' in reply && isShort(request) ? lie(reply.pageHashes.chunks) : [reply]

/** The same, and lies about whole hashes too. */
const ofAllLists =
  (lie: (lists: ChunkHashes[]) => Awaited<ReturnType<Lie>>): Lie =>
  (reply) =>
    'pageHashes' in reply ? lie(reply.pageHashes.chunks) : [reply]

const ofPages =
  (lie: (pages: Pages) => Awaited<ReturnType<Lie>>): Lie =>
  (reply) =>
    'pages' in reply ? lie(reply.pages) : [reply]

const isShort = (request: TemplateRequest): boolean =>
  'pageHashes' in request && request.pageHashes.hashBytes < 32

const flipped = (bytes: Uint8Array): Buffer => {
  const changed = Buffer.from(bytes)
  changed[changed.length - 1]! ^= 1
  return changed
}

const unpacked = ({ pages, compressed }: Pages): Buffer =>
  compressed ? zstdDecompressSync(pages) : Buffer.from(pages)

/** A message that the codec itself may refuse to take: protobuf alone wrote it. */
const raw = (plain: object): Uint8Array => {
  const type = messageType('drover.template.TemplateReply')
  return type.encode(type.fromObject(plain)).finish()
}

const lists = (chunks: ChunkHashes[]): TemplateReply => ({ pageHashes: { chunks } })

/** Of the first list that has a page. */
const changed = (chunks: ChunkHashes[], change: (list: ChunkHashes) => ChunkHashes): TemplateReply[] => {
  const first = chunks.findIndex(({ hashes }) => hashes.length > 0)
  return [lists(chunks.with(first, change(chunks[first]!)))]
}

const manifestOf = (bytes: Uint8Array): TemplateReply => ({
  manifest: { totalBytes: bytes.length, compressed: zstdCompressSync(bytes) },
})

test.each<[what: string, lie: Lie, code: string]>([
  ['nothing in place of the manifest', ofManifest(() => [raw({})]), 'MESSAGE_MALFORMED'],
  [
    'pages in place of the manifest',
    ofManifest(() => [{ pages: { pages: Buffer.from('x'), compressed: false } }]),
    'TEMPLATE_MISMATCH',
  ],
  ['another manifest', ofManifest(() => [manifestOf(Buffer.from('x'))]), 'TEMPLATE_MISMATCH'],
  [
    'a manifest with another chunk',
    ofManifest(({ compressed }) => [manifestOf(flipped(zstdDecompressSync(compressed)))]),
    'TEMPLATE_MISMATCH',
  ],
  [
    'a manifest of 10^12 pages',
    ofManifest(() => [{ manifest: { totalBytes: (10 ** 12 / 256) * 34, compressed: Buffer.alloc(10) } }]),
    'TEMPLATE_MISMATCH',
  ],
  [
    'a manifest of 2^60 bytes',
    ofManifest(() => [raw({ manifest: { totalBytes: 2 ** 60, compressed: Buffer.alloc(10) } })]),
    'MESSAGE_MALFORMED',
  ],
  [
    'a manifest that is a bomb',
    ofManifest(({ totalBytes }) => [
      { manifest: { totalBytes, compressed: zstdCompressSync(Buffer.alloc(BOMB_BYTES)) } },
    ]),
    'TEMPLATE_MISMATCH',
  ],
  [
    'a manifest that is empty',
    ofManifest(() => [{ manifest: { totalBytes: 0, compressed: new Uint8Array() } }]),
    'TEMPLATE_MISMATCH',
  ],
  ['a frame of 64 MiB', ofManifest(() => [Buffer.alloc(BOMB_BYTES)]), 'MESSAGE_TOO_LARGE'],
  ['noise', ofManifest(() => [Buffer.alloc(100, 0xff)]), 'MESSAGE_MALFORMED'],
  ['nothing at all', ofManifest(() => [new Uint8Array()]), 'MESSAGE_MALFORMED'],
  [
    'a refusal with a terminal escape',
    ofManifest(() => [raw({ refusal: { code: 'X', message: '\x1b[2J' } })]),
    'MESSAGE_MALFORMED',
  ],

  ['a list too few', ofLists((chunks) => [lists(chunks.slice(1))]), 'TEMPLATE_MISMATCH'],
  ['a list too many', ofLists((chunks) => [lists([...chunks, chunks[0]!])]), 'TEMPLATE_MISMATCH'],
  ['no list', ofLists(() => [lists([])]), 'TEMPLATE_MISMATCH'],
  [
    '65 lists',
    ofLists((chunks) => [raw({ pageHashes: { chunks: Array(65).fill(chunks[0]) } })]),
    'MESSAGE_MALFORMED',
  ],
  [
    'a bitmap that is too short',
    ofLists((chunks) => [raw({ pageHashes: { chunks: [{ ...chunks[0], bitmap: new Uint8Array(31) }] } })]),
    'MESSAGE_MALFORMED',
  ],
  [
    'a bitmap that is too long',
    ofLists((chunks) => [raw({ pageHashes: { chunks: [{ ...chunks[0], bitmap: new Uint8Array(33) }] } })]),
    'MESSAGE_MALFORMED',
  ],
  [
    'a hash too few',
    ofLists((chunks) => [
      raw({ pageHashes: { chunks: [{ bitmap: chunks[0]!.bitmap, hashes: new Uint8Array() }] } }),
    ]),
    'MESSAGE_MALFORMED',
  ],
  [
    'hashes of another length',
    ofLists((chunks) =>
      changed(chunks, (list) => ({ ...list, hashes: Buffer.concat([list.hashes, Buffer.alloc(1)]) })),
    ),
    'TEMPLATE_MISMATCH',
  ],
  [
    'another hash',
    ofLists((chunks) => changed(chunks, (list) => ({ ...list, hashes: flipped(list.hashes) }))),
    'TEMPLATE_MISMATCH',
  ],
  [
    'another whole hash',
    ofAllLists((chunks) => changed(chunks, (list) => ({ ...list, hashes: flipped(list.hashes) }))),
    'TEMPLATE_MISMATCH',
  ],
  [
    'a page as zeros',
    ofAllLists((chunks) => changed(chunks, () => ({ bitmap: new Uint8Array(32), hashes: new Uint8Array() }))),
    'TEMPLATE_MISMATCH',
  ],
  [
    'pages in place of lists',
    ofLists(() => [{ pages: { pages: new Uint8Array(), compressed: false } }]),
    'TEMPLATE_MISMATCH',
  ],

  [
    'another page',
    ofPages((pages) => [{ pages: { pages: flipped(unpacked(pages)), compressed: false } }]),
    'TEMPLATE_MISMATCH',
  ],
  [
    'zeros',
    ofPages((pages) => [{ pages: { pages: Buffer.alloc(unpacked(pages).length), compressed: false } }]),
    'TEMPLATE_MISMATCH',
  ],
  [
    'a page too few',
    ofPages((pages) => [{ pages: { pages: unpacked(pages).subarray(PAGE_BYTES), compressed: false } }]),
    'TEMPLATE_MISMATCH',
  ],
  [
    'a page too many',
    ofPages((pages) => [
      { pages: { pages: Buffer.concat([unpacked(pages), Buffer.alloc(PAGE_BYTES)]), compressed: false } },
    ]),
    'TEMPLATE_MISMATCH',
  ],
  [
    'no pages',
    ofPages(() => [{ pages: { pages: new Uint8Array(), compressed: false } }]),
    'TEMPLATE_MISMATCH',
  ],
  [
    'pages of 2 MiB',
    ofPages(() => [raw({ pages: { pages: Buffer.alloc(2 * CHUNK_BYTES) } })]),
    'MESSAGE_TOO_LARGE',
  ],
  [
    'a decompression bomb',
    ofPages(() => [{ pages: { pages: zstdCompressSync(Buffer.alloc(BOMB_BYTES)), compressed: true } }]),
    'TEMPLATE_MISMATCH',
  ],
  [
    'zstd that is none',
    ofPages(() => [{ pages: { pages: Buffer.from('not zstd'), compressed: true } }]),
    'TEMPLATE_MISMATCH',
  ],
  ['a cut frame', ofPages((pages) => [raw({ pages }).subarray(0, 20)]), 'MESSAGE_MALFORMED'],
  ['a manifest in place of pages', ofPages(() => [manifestOf(Buffer.from('x'))]), 'TEMPLATE_MISMATCH'],
])('a peer that sends %s is not believed, and nothing of it is seen', async (_, lie, code) => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { id } = await addTemplate(source.store)
  const { dropped, onDropped } = drops()
  expect(await codeOf(fetchFrom(lyingPeer(source.store, lie), target.store, id, { onDropped }))).toBe(code)
  expect(dropped).toMatchObject([{ peer: 'server', code }])
  expect(target.store.list()).toEqual([])
  // The harness alone changes nothing, and what the liar left does no harm.
  await fetchFrom(
    lyingPeer(source.store, (reply) => [reply]),
    target.store,
    id,
  )
  expect((await target.store.verify(id, { signal: new AbortController().signal })).ok).toBe(true)
})

test('answers for ever fill no memory', async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { id } = await addTemplate(source.store)
  const peer = lyingPeer(source.store, (reply) => Array(10_000).fill(reply))
  expect(await codeOf(fetchFrom(peer, target.store, id))).toBe('TEMPLATE_MISMATCH')
})

test('bytes that hash to the id are not yet a manifest', async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const bytes = Buffer.from('not a manifest')
  await addTemplate(source.store)
  const peer = lyingPeer(source.store, () => [manifestOf(bytes)])
  expect(await codeOf(fetchFrom(peer, target.store, templateId(bytes)))).toBe('MANIFEST_MALFORMED')
})

test('a peer that resets the channel for good ends the fetch', async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { id } = await addTemplate(source.store)
  const peer = lyingPeer(source.store, (reply) => {
    if ('pages' in reply) throw new Error('crash')
    return [reply]
  })
  expect(await codeOf(fetchFrom(peer, target.store, id))).toBe('ERR_CHANNEL_RESET')
  expect(await readdir(target.templatesDir)).toEqual([`fetch-${id}`])
})

test('a peer that resets the channel once is asked again', async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { id } = await addTemplate(source.store)
  let crashes = 1
  const peer = lyingPeer(source.store, (reply) => {
    if ('pages' in reply && crashes-- > 0) throw new Error('crash')
    return [reply]
  })
  await fetchFrom(peer, target.store, id, { retryDelaysMs: [1] })
  expect(peer.channels).toHaveLength(2)
})

test('the manifest of another template that the peer has too is refused', async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { id } = await addTemplate(source.store)
  const other = await addTemplate(source.store, null, { kernel: 'with a back door' })
  const lie = ofManifest(() => [manifestOf(encodeManifest(other.manifest))])
  expect(await codeOf(fetchFrom(lyingPeer(source.store, lie), target.store, id))).toBe('TEMPLATE_MISMATCH')
  expect((await fetchFrom(new TestPeer(serveTemplate(source.store)), target.store, other.id)).record.id).toBe(
    other.id,
  )
})

/** Random pages in every chunk of memory: 128 each. */
const noise = (): Record<number, Uint8Array> =>
  Object.fromEntries([0, 1, 2].map((chunk) => [chunk * 256, randomBytes(128 * PAGE_BYTES)]))

test.each<[what: string, lie: Lie]>([
  ['wrong pages', ofPages((pages) => [{ pages: { pages: flipped(unpacked(pages)), compressed: false } }])],
  [
    'wrong lists',
    ofLists((chunks) => changed(chunks, (list) => ({ ...list, hashes: flipped(list.hashes) }))),
  ],
  [
    'wrong lists, whole and short',
    ofAllLists((chunks) => changed(chunks, (list) => ({ ...list, hashes: flipped(list.hashes) }))),
  ],
])(
  'among honest peers one that sends %s is found out, and the template comes from the others',
  async (_, lie) => {
    await using source = await TestNode.start()
    await using target = await TestNode.start()
    const { id } = await addTemplate(source.store, null, { noise: noise() })
    const { dropped, onDropped } = drops()
    let lies = 0
    const liar = lyingPeer(
      source.store,
      async (reply, request, n) => {
        const said = await lie(reply, request, n)
        if ('pages' in reply && said[0] !== reply) lies++
        return said
      },
      'liar',
    )
    const honest = ['honest-1', 'honest-2'].map((name) => slowPeer(source.store, name))
    await fetchFrom([liar, ...honest], target.store, id, { onDropped })
    expect(dropped).toMatchObject([{ peer: 'liar', code: 'TEMPLATE_MISMATCH' }])
    expect(lies).toBeLessThanOrEqual(2)
    expect((await target.store.verify(id, { signal: new AbortController().signal })).ok).toBe(true)
  },
)

test('one that stalls loses its share, and one that went away is missed by nobody', async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { id } = await addTemplate(source.store, null, { noise: noise() })
  let isStalled = false
  const stalls = lyingPeer(
    source.store,
    (reply) => {
      if (!('pages' in reply)) return [reply]
      isStalled = true
      return new Promise(() => {})
    },
    'stalls',
  )
  const resets = lyingPeer(
    source.store,
    (reply) => {
      if ('pages' in reply) throw new Error('crash')
      return [reply]
    },
    'resets',
  )
  const { from } = await fetchFrom([stalls, resets, slowPeer(source.store, 'honest')], target.store, id)
  expect({ from, isStalled }).toEqual({ from: ['honest'], isStalled: true })
})

/** Leaves the first shares to others. */
function slowPeer(store: TestNode['store'], name: string): TestPeer {
  return lyingPeer(store, (reply) => new Promise((resolve) => setTimeout(() => resolve([reply]), 20)), name)
}

test('pages that a damaged template here no longer holds travel', async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const pages = noise()
  const { id } = await addTemplate(source.store, null, { noise: pages })
  // The sibling here has the same pages elsewhere, and one of them is not what it was.
  const moved = Object.fromEntries(Object.entries(pages).map(([page, bytes]) => [Number(page) + 1, bytes]))
  const sibling = await addTemplate(target.store, 'sibling', { noise: moved })
  await flipPage(target.store.files(sibling.id).ram, 5)
  const peer = new TestPeer(serveTemplate(source.store))
  const { bytesReceived } = await fetchFrom(peer, target.store, id)
  expect(bytesReceived).toBeGreaterThan(PAGE_BYTES)
  expect(bytesReceived).toBeLessThan(4 * PAGE_BYTES)
  expect((await target.store.verify(id, { signal: new AbortController().signal })).ok).toBe(true)
})

async function flipPage(path: string, page: number): Promise<void> {
  const { chmod, open } = await import('node:fs/promises')
  await chmod(path, 0o600)
  await using file = await open(path, 'r+')
  await file.write(randomBytes(16), 0, 16, page * PAGE_BYTES)
}
