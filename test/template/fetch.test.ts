import { randomBytes } from 'node:crypto'
import { readdir, readFile, stat, statfs } from 'node:fs/promises'
import { zstdCompressSync } from 'node:zlib'
import { expect, test } from 'vitest'
import { CHUNK_BYTES, PAGE_BYTES } from '../../src/domain/page.ts'
import type { TemplateManifest } from '../../src/domain/template.ts'
import { Pace } from '../../src/migration/pace.ts'
import { DISK_MARGIN_BYTES } from '../../src/template/disk.ts'
import { encodeManifest, type FetchProgress, serveTemplate, templateId } from '../../src/template/index.ts'
import { templateRequestCodec } from '../../src/wire/template-messages.ts'
import { aborted, addTemplate, CHUNKS, codeOf, machine, never, TestNode } from './fixture.ts'
import { fetchFrom, lyingPeer, TestPeer } from './peers.ts'

test('a fetched template is the same one, sparse and sealed', async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const disk = Buffer.concat([randomBytes(1_500_000), Buffer.alloc(1_000_001)])
  const noise = { 256: randomBytes(200 * PAGE_BYTES) }
  const { id } = await addTemplate(source.store, 'alpine', { pages: { 1: 0x11 }, noise, disk })
  const peer = new TestPeer(serveTemplate(source.store))
  const progress: FetchProgress[] = []

  const fetched = await fetchFrom(peer, target.store, id, {
    name: 'edge',
    onProgress: (p) => progress.push(p),
  })
  await peer.idle()

  expect(fetched.record).toEqual({
    ...source.store.get(id),
    names: ['edge'],
    createdAtMs: fetched.record.createdAtMs,
  })
  expect(fetched.bytesReceived).toBe(peer.channels.reduce((sum, channel) => sum + channel.bytesReceived, 0))
  expect(fetched.bytesSent).toBe(peer.channels.reduce((sum, channel) => sum + channel.bytesSent, 0))
  // Memory, state, kernel, initrd, and 2.5 MB of disk.
  const chunksTotal = CHUNKS + 3 + 3
  expect(progress.at(-1)).toEqual({
    bytesReceived: fetched.bytesReceived,
    chunksDone: chunksTotal,
    chunksTotal,
  })
  const [there, here] = [source.store.files(id), target.store.files(id)]
  for (const file of ['manifest', 'ram', 'state', 'kernel', 'initrd', 'disk', 'pageHashes'] as const) {
    expect((await readFile(here[file]!)).equals(await readFile(there[file]!)), file).toBe(true)
    expect((await stat(here[file]!)).mode & 0o777, file).toBe(0o444)
  }
  expect((await stat(here.ram)).blocks * 512).toBeLessThan(202 * PAGE_BYTES)
  expect((await stat(here.disk!)).blocks * 512).toBeLessThan(2_000_000)
  expect(await target.store.verify(id, { signal: never() })).toEqual({ ok: true, damaged: [] })
  await target.restart()
  expect(target.store.resolve('edge').id).toBe(id)
})

test('zeros cost next to nothing, and the rest is compressed', async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { id } = await addTemplate(source.store)
  const { bytesReceived, bytesSent } = await fetchFrom(
    new TestPeer(serveTemplate(source.store)),
    target.store,
    id,
  )
  expect(bytesReceived + bytesSent).toBeLessThan(1024)
})

test('a fetch keeps to its pace, and is not slower than that', async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const noise = Object.fromEntries(
    Array.from({ length: CHUNKS }, (_, chunk) => [chunk * 256, randomBytes(CHUNK_BYTES)]),
  )
  const { id } = await addTemplate(source.store, null, { noise })
  const pace = new Pace(1_000_000)
  const startedMs = performance.now()
  const { bytesReceived, bytesSent } = await fetchFrom(
    new TestPeer(serveTemplate(source.store)),
    target.store,
    id,
    {
      pace: (bytes, signal) => pace.came(bytes, signal),
    },
  )
  const tookMs = performance.now() - startedMs
  const bytes = bytesReceived + bytesSent
  // The last two shares, of 1 MiB each, are not waited for.
  expect(bytes - 2 * 1024 ** 2).toBeLessThan(tookMs * pace.bytesPerMs * 1.05)
  expect(bytes).toBeGreaterThan(tookMs * pace.bytesPerMs * 0.8)
})

test('a template that is there already is not fetched', async () => {
  await using node = await TestNode.start()
  const { id } = await addTemplate(node.store, 'alpine')
  const nobody = new TestPeer(async () => {})
  const fetched = await fetchFrom(nobody, node.store, id, { name: 'edge' })
  expect(fetched).toMatchObject({ bytesReceived: 0, bytesSent: 0, record: { names: ['alpine', 'edge'] } })
  expect(nobody.channels).toEqual([])
})

test('nothing is fetched under a name that is taken, or an id that is none', async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { id } = await addTemplate(source.store)
  await addTemplate(target.store, 'edge', { kernel: 'another' })
  const peer = new TestPeer(serveTemplate(source.store))
  expect(await codeOf(fetchFrom(peer, target.store, id, { name: 'edge' }))).toBe('NAME_TAKEN')
  expect(await codeOf(fetchFrom(peer, target.store, '../../etc'))).toBe('TEMPLATE_NOT_FOUND')
  expect(peer.channels).toEqual([])
})

test('a peer without the template says so', async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const id = templateId(new Uint8Array())
  await expect(fetchFrom(new TestPeer(serveTemplate(source.store)), target.store, id)).rejects.toMatchObject({
    code: 'TEMPLATE_REFUSED',
    details: { peer: 'server', code: 'TEMPLATE_NOT_FOUND' },
  })
})

/** A peer whose manifest says something else of a template than the one that it has. */
async function peerWithManifest(
  store: TestNode['store'],
  manifest: TemplateManifest,
): Promise<[TestPeer, string]> {
  const bytes = encodeManifest(manifest)
  const { id } = await addTemplate(store)
  const peer = lyingPeer(store, (reply) => {
    if (!('manifest' in reply)) return [{ refusal: { code: 'ENOUGH', message: 'the fetch had begun' } }]
    return [{ manifest: { totalBytes: bytes.length, compressed: zstdCompressSync(bytes) } }]
  })
  const asked = new TestPeer(async (channel, signal) => {
    // The template that it has, in place of the one that it is asked for.
    const inner = await peer.open()
    for (let question = await channel.receive({ maxBytes: 4096 }); question !== null; ) {
      const request = templateRequestCodec.decode(question)
      await inner.send(templateRequestCodec.encode({ ...request, templateId: id }), { signal })
      await channel.send((await inner.receive({ maxBytes: 2 ** 21 }))!)
      question = await channel.receive({ maxBytes: 4096 })
    }
    await inner.close()
  })
  return [asked, templateId(bytes)]
}

test('a template that the disk has no room for is not begun', async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { manifest } = await addTemplate(source.store)
  const noise = Array.from({ length: 1000 * 1024 }, () => manifest.chunkHashes[0]!)
  const huge = {
    ...manifest,
    chunkHashes: [...manifest.chunkHashes, ...noise],
    sizes: { ...manifest.sizes, disk: 1000 * 2 ** 30 },
  }
  const [peer, id] = await peerWithManifest(source.store, { ...huge, machine: { ...machine, cpus: 2 } })
  // Of 34 MB the first MiB is all that this peer sends of its manifest, so it has to be asked in parts.
  expect(await codeOf(fetchFrom(peer, target.store, id))).toBe('TEMPLATE_MISMATCH')
  const smaller = { ...huge, chunkHashes: huge.chunkHashes.slice(0, 30_000) }
  const diskChunks = 30_000 - manifest.chunkHashes.length
  smaller.sizes = { ...manifest.sizes, disk: diskChunks * CHUNK_BYTES }
  const promisedBytes = (await freeBytes(target)) - CHUNK_BYTES - DISK_MARGIN_BYTES
  using _promised = target.store.reserveBytes(promisedBytes)
  const [other, otherId] = await peerWithManifest(source.store, smaller)
  await expect(fetchFrom(other, target.store, otherId)).rejects.toMatchObject({
    code: 'DISK_FULL',
    details: { neededBytes: expect.toSatisfy((bytes: number) => bytes > diskChunks * CHUNK_BYTES) },
  })
})

async function freeBytes(node: TestNode): Promise<number> {
  const { bavail, bsize } = await statfs(node.templatesDir)
  return bavail * bsize
}

test('memory of zeros needs no room', async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { manifest } = await addTemplate(source.store, null, { pages: {} })
  const [zero, ...rest] = manifest.chunkHashes
  const files = rest.slice(CHUNKS - 1)
  const chunks = 2 ** 13
  const large = {
    ...manifest,
    machine: { ...machine, memoryBytes: chunks * CHUNK_BYTES },
    chunkHashes: [...Array(chunks).fill(zero), ...files],
  }
  const [peer, id] = await peerWithManifest(source.store, large)
  using _promised = await target.store.reserveBytes((await freeBytes(target)) - chunks * CHUNK_BYTES * 0.1)
  await expect(fetchFrom(peer, target.store, id)).rejects.toMatchObject({
    code: 'TEMPLATE_REFUSED',
    details: { code: 'ENOUGH' },
  })
})

test('a fetch under way is shared, and its bytes are counted once', async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { id } = await addTemplate(source.store)
  const peer = new TestPeer(serveTemplate(source.store))
  const unused = new TestPeer(serveTemplate(source.store))
  const [first, second] = await Promise.all([
    fetchFrom(peer, target.store, id, { name: 'one' }),
    fetchFrom(unused, target.store, id, { name: 'two' }),
  ])
  expect(first.bytesReceived).toBeGreaterThan(0)
  expect(second).toMatchObject({ bytesReceived: 0, bytesSent: 0 })
  expect(target.store.get(id).names.toSorted()).toEqual(['one', 'two'])
  expect(unused.channels).toEqual([])
})

test('who started a shared fetch may leave it to the others', async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { id } = await addTemplate(source.store)
  const peer = new TestPeer(serveTemplate(source.store))
  const unused = new TestPeer(serveTemplate(source.store))
  const leave = new AbortController()
  const first = fetchFrom(peer, target.store, id, { signal: leave.signal })
  const second = fetchFrom(unused, target.store, id)
  leave.abort(new Error('left'))
  await expect(first).rejects.toThrow('left')
  expect((await second).record.id).toBe(id)
  expect(unused.channels).toEqual([])
})

test('when a shared fetch fails, the next one tries its own peer', async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { id } = await addTemplate(source.store)
  const liar = lyingPeer(source.store, () => [{ pages: { pages: new Uint8Array(), compressed: false } }])
  const first = codeOf(fetchFrom(liar, target.store, id))
  const second = fetchFrom(new TestPeer(serveTemplate(source.store)), target.store, id)
  expect(await first).toBe('TEMPLATE_MISMATCH')
  expect((await second).bytesReceived).toBeGreaterThan(0)
})

test('a cancelled fetch keeps what it has, unseen, and its channel is reset', async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { id } = await addTemplate(source.store)
  const cancel = new AbortController()
  const peer = lyingPeer(source.store, (reply) => {
    if ('pages' in reply) cancel.abort(new Error('cancelled'))
    return [reply]
  })
  await expect(fetchFrom(peer, target.store, id, { signal: cancel.signal })).rejects.toThrow('cancelled')
  expect(await readdir(target.templatesDir)).toEqual([`fetch-${id}`])
  expect(target.store.list()).toEqual([])
  await expect(peer.channels.at(-1)!.send(new Uint8Array())).rejects.toThrow('ended')
})

test('stopping the store ends its fetches', async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { id } = await addTemplate(source.store)
  const silent = new TestPeer((_, signal) => aborted(signal))
  const fetching = codeOf(fetchFrom(silent, target.store, id))
  await target.store.stop()
  expect(await fetching).toBe(DOMException.ABORT_ERR)
})

test('a peer that says nothing is given up', async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { id } = await addTemplate(source.store)
  const stuck = new TestPeer(async (channel, signal) => {
    await channel.receive({ maxBytes: 1000 })
    await aborted(signal)
  })
  expect(await codeOf(fetchFrom(stuck, target.store, id, { frameTimeoutMs: 100 }))).toBe('TEMPLATE_TIMEOUT')
  expect(await readdir(target.templatesDir)).toEqual([])
})
