/** Fetches, repairs and collections that meet damage, each other, or their own remains. */
import { randomBytes } from 'node:crypto'
import { chmod, mkdir, open, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { verifyTemplates } from '../../src/agent/verify-templates.ts'
import { CHUNK_BYTES, PAGE_BYTES } from '../../src/domain/page.ts'
import { repairTemplate, serveTemplate } from '../../src/template/index.ts'
import { addTemplate, codeOf, never, TestNode } from './fixture.ts'
import { fetchFrom, lyingPeer, TestPeer } from './peers.ts'

const LIMIT_MS = 20_000

/** Resolves to 'hung' when a promise doesn't settle. */
const orHung = (promise: Promise<unknown>, ms = 8_000): Promise<unknown> =>
  Promise.race([promise, sleep(ms, 'hung', { ref: false })])

async function overwrite(path: string, bytes: Uint8Array, at: number): Promise<void> {
  await chmod(path, 0o600)
  await using file = await open(path, 'r+')
  await file.write(bytes, 0, bytes.length, at)
}

const full = (byte: number, first: number, count: number): Record<number, number> =>
  Object.fromEntries(Array.from({ length: count }, (_, i) => [first + i, byte]))

test('repeated page that the sibling here has damaged: request stays within 256 pages', {
  timeout: LIMIT_MS,
}, async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  // Chunk 0: 200 times the same page, in the sibling too, where it is damaged. Chunk 1: 128 others.
  const { id } = await addTemplate(source.store, null, {
    pages: { ...full(0x55, 0, 200), ...full(0x55, 256, 200) },
  })
  const sibling = await addTemplate(target.store, null, { pages: { 700: 0x55 } })
  await target.store.pageIndex.settled()
  await overwrite(target.store.files(sibling.id).ram, randomBytes(PAGE_BYTES), 700 * PAGE_BYTES)
  const peer = lyingPeer(source.store, async (reply, request) => {
    if ('pages' in request) {
      await sleep(50)
      const n = request.pages.chunks.reduce(
        (sum, { bitmap }) => sum + bitmap.reduce((s, b) => s + b.toString(2).replaceAll('0', '').length, 0),
        0,
      )
      expect(n).toBeLessThanOrEqual(256)
    }
    return [reply]
  })
  const outcome = await codeOf(fetchFrom(peer, target.store, id, { retryDelaysMs: [1, 1] }))
  expect(outcome).toBe('resolved')
})

test('repair with a missing RAM file does not pass over zero chunks of other files', {
  timeout: LIMIT_MS,
}, async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { id } = await addTemplate(source.store, null, { disk: new Uint8Array(2 * CHUNK_BYTES) })
  await fetchFrom(new TestPeer(serveTemplate(source.store)), target.store, id)
  const { ram, disk } = target.store.files(id)
  await overwrite(disk!, randomBytes(16), 5 * PAGE_BYTES)
  await rm(ram)
  await repairTemplate({
    store: target.store,
    id,
    providers: [new TestPeer(serveTemplate(source.store))],
    signal: never(),
  })
  expect(await target.store.verify(id, { signal: never() })).toEqual({ ok: true, damaged: [] })
})

test('a draft without a RAM file is not taken for an empty one', { timeout: LIMIT_MS }, async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { id } = await addTemplate(source.store, null, { disk: new Uint8Array(CHUNK_BYTES) })
  const dir = join(target.templatesDir, `fetch-${id}`)
  await mkdir(dir)
  await writeFile(join(dir, 'disk'), randomBytes(CHUNK_BYTES))
  await fetchFrom(new TestPeer(serveTemplate(source.store)), target.store, id)
  expect(await target.store.verify(id, { signal: never() })).toEqual({ ok: true, damaged: [] })
})

test('a sibling whose RAM file is gone keeps no fetch from its end', { timeout: LIMIT_MS }, async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { id } = await addTemplate(source.store)
  const sibling = await addTemplate(target.store, null, { kernel: 'other' })
  await rm(target.store.files(sibling.id).ram)
  expect(await codeOf(fetchFrom(new TestPeer(serveTemplate(source.store)), target.store, id))).toBe(
    'resolved',
  )
})

test('repair that needs no peer leaves no channel open', { timeout: LIMIT_MS }, async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { id } = await addTemplate(source.store)
  const peer = new TestPeer(serveTemplate(source.store))
  await fetchFrom(new TestPeer(serveTemplate(source.store)), target.store, id)
  await overwrite(target.store.files(id).pageHashes, randomBytes(8), 0)
  await repairTemplate({ store: target.store, id, providers: [peer], signal: never() })
  expect(await orHung(peer.idle(), 3_000)).toBe(undefined)
})

test('a provider that is opened while the fetch ends leaves no channel open', {
  timeout: LIMIT_MS,
}, async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { id } = await addTemplate(source.store)
  const first = new TestPeer(serveTemplate(source.store), 'first')
  const late = new TestPeer(serveTemplate(source.store), 'late')
  const slowClose = {
    peer: 'first',
    open: async () => {
      const channel = await first.open()
      const close = channel.close.bind(channel)
      channel.close = async () => {
        await sleep(500)
        await close()
      }
      return channel
    },
  }
  const slowOpen = {
    peer: 'late',
    open: async () => {
      await sleep(300)
      return late.open()
    },
  }
  await fetchFrom([], target.store, id, { providers: () => [slowClose, slowOpen] })
  await sleep(500)
  expect(await orHung(late.idle(), 3_000)).toBe(undefined)
})

test('eight that refuse do not hide the ninth that has it', { timeout: LIMIT_MS }, async () => {
  await using source = await TestNode.start()
  await using empty = await TestNode.start()
  await using target = await TestNode.start()
  const { id } = await addTemplate(source.store)
  const refusers = Array.from(
    { length: 8 },
    (_, i) => new TestPeer(serveTemplate(empty.store), `refuser-${i}`),
  )
  const honest = new TestPeer(serveTemplate(source.store), 'honest')
  expect(await codeOf(fetchFrom([...refusers, honest], target.store, id))).toBe('resolved')
})

test('an index that fails ends the fetch, or is done without', { timeout: LIMIT_MS }, async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { id } = await addTemplate(source.store)
  const controller = new AbortController()
  // A database that can't be read any more: a bad sector, say.
  target.store.pageIndex.find = async () => {
    throw Object.assign(new Error('corruption'), { code: 'LEVEL_CORRUPTION' })
  }
  const fetching = codeOf(
    fetchFrom(new TestPeer(serveTemplate(source.store)), target.store, id, {
      signal: controller.signal,
      retryDelaysMs: [10, 10, 10],
    }),
  )
  const outcome = await orHung(fetching)
  controller.abort()
  await fetching
  expect(outcome).not.toBe('hung')
})

test('reconcile goes on after one that it cannot read', { timeout: LIMIT_MS }, async () => {
  await using node = await TestNode.start()
  const gone = await addTemplate(node.store, null, { kernel: 'a' })
  const other = await addTemplate(node.store, null, { kernel: 'b', pages: { 9: 0x77 } })
  await node.store.pageIndex.settled()
  const { PageIndex, keyOf } = await import('../../src/template/page-index.ts')
  await node.db.clear()
  const index = new PageIndex({ db: node.db })
  const path = node.store.files(other.id).pageHashes
  index.reconcile([
    { id: gone.id, pageHashesPath: '/nowhere/page-hashes' },
    { id: other.id, pageHashesPath: path },
  ])
  const { hashPages } = await import('../../src/template/hashing.ts')
  const key = keyOf(hashPages(new Uint8Array(PAGE_BYTES).fill(0x77)))
  expect(await index.find([key])).toEqual([{ id: other.id, page: 9 }])
})

test('gc survives a template that is removed meanwhile', { timeout: LIMIT_MS }, async () => {
  await using node = await TestNode.start()
  const ids = []
  for (const kernel of ['a', 'b', 'c', 'd']) ids.push((await addTemplate(node.store, null, { kernel })).id)
  const gc = { limitBytes: 0, isElsewhere: () => false, spareNewest: false }
  const codes = await Promise.all([
    codeOf(node.store.gc(gc)),
    codeOf(node.store.remove(ids[3]!)),
    codeOf(node.store.remove(ids[2]!)),
  ])
  expect(codes[0]).toBe('resolved')
})

test('a collection goes on when one goes meanwhile', { timeout: LIMIT_MS }, async () => {
  await using node = await TestNode.start()
  for (const kernel of ['a', 'b', 'c', 'd']) await addTemplate(node.store, null, { kernel })
  const gc = { limitBytes: 0, isElsewhere: () => false, spareNewest: false }
  const codes = await Promise.all([
    codeOf(node.store.gc(gc)),
    sleep(5).then(() => codeOf(node.store.remove(node.store.list().at(-1)!.id))),
  ])
  expect(codes[0]).toBe('resolved')
})

test('a draft larger than needed promises no space to others', { timeout: LIMIT_MS }, async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { id } = await addTemplate(source.store)
  const dir = join(target.templatesDir, `fetch-${id}`)
  await mkdir(dir)
  await writeFile(join(dir, 'ram'), randomBytes(20 * CHUNK_BYTES))
  const asked: number[] = []
  const reserve = target.store.reserveBytes.bind(target.store)
  target.store.reserveBytes = (bytes) => {
    asked.push(bytes)
    return reserve(bytes)
  }
  await fetchFrom(new TestPeer(serveTemplate(source.store)), target.store, id)
  expect((await target.store.verify(id, { signal: never() })).ok).toBe(true)
  expect(asked[0]).toBeGreaterThanOrEqual(0)
})

test('verify of all goes on when one is removed meanwhile', { timeout: LIMIT_MS }, async () => {
  await using node = await TestNode.start()
  await addTemplate(node.store, null, { kernel: 'a' })
  const second = await addTemplate(node.store, null, { kernel: 'b' })
  const third = await addTemplate(node.store, null, { kernel: 'c' })
  let removing: Promise<void> | null = null
  const parts = { templates: node.store, mesh: {}, events: {} } as never
  const verified = verifyTemplates(parts, {
    template: null,
    repair: false,
    progress: () => {
      removing ??= node.store.remove(second.id)
    },
    signal: never(),
  })
  const outcome = await verified.then(
    ({ templates }) => templates.map(({ id }) => id),
    (e) => e.code,
  )
  await removing
  expect(outcome).toContain(third.id)
})

test('a collection takes nothing from a fetch that starts', { timeout: 60_000 }, async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { id } = await addTemplate(source.store, null, { noise: { 0: randomBytes(700 * PAGE_BYTES) } })
  const codes: unknown[] = []
  const gcs: unknown[] = []
  for (let round = 0; round < 10; round++) {
    const dir = join(target.templatesDir, `fetch-${id}`)
    await mkdir(dir, { recursive: true })
    for (const f of ['ram', 'kernel', 'state', 'initrd']) await writeFile(join(dir, f), 'x')
    for (let i = 0; i < 100; i++) await writeFile(join(dir, `x${i}`), 'x')
    const gc = codeOf(target.store.gc({ limitBytes: null, isElsewhere: () => false, spareNewest: false }))
    await sleep(1 + round)
    codes.push(await codeOf(fetchFrom(new TestPeer(serveTemplate(source.store)), target.store, id)))
    gcs.push(await gc)
    if (target.store.has(id)) await target.store.remove(id)
  }
  expect(codes.every((c) => c === 'resolved')).toBe(true)
  expect(gcs.every((c) => c === 'resolved')).toBe(true)
})

test('what a fetch left read-only is written to again', async () => {
  await using node = await TestNode.start()
  const { id } = await addTemplate(node.store)
  const dir = join(node.templatesDir, `fetch-${id}`)
  await mkdir(dir)
  await writeFile(join(dir, 'ram'), 'x', { mode: 0o444 })
  await node.store.beginFetch(id)
  expect((await stat(join(dir, 'ram'))).mode & 0o777).toBe(0o600)
})
