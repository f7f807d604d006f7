/** Templates that come before they are needed: which, how many, and over real nodes and stores. */
import { randomBytes } from 'node:crypto'
import { expect, test } from 'vitest'
import { EventHub } from '../../src/agent/event-hub.ts'
import {
  type Allowance,
  isSending,
  prefetchableBytes,
  templatesInDemand,
} from '../../src/agent/prefetch/demand.ts'
import { TemplatePrefetch } from '../../src/agent/prefetch/prefetch.ts'
import type { NodeFacts, NodeView, NodeVm } from '../../src/domain/node.ts'
import { PAGE_BYTES } from '../../src/domain/page.ts'
import { serveTemplate, TEMPLATE_PROTOCOL } from '../../src/template/index.ts'
import { startNode } from '../support/mesh-pair.ts'
import { someFacts, templateNo, vmNo } from '../support/node-facts.ts'
import { addTemplate, CHUNKS, TestNode } from '../template/fixture.ts'

const GIB = 1024 ** 3
const qemu = someFacts().qemu!
const [WEB, DB] = [templateNo(1), templateNo(2)]

const view = (vms: readonly NodeVm[], facts: Partial<NodeFacts> = {}, self = false) =>
  ({ self, facts: someFacts({ vms, ...facts }) }) as unknown as NodeView

test('what most VMs of others run from is in demand most; stopped VMs and this node need nothing', () => {
  const nodes = [
    view([vmNo(1, WEB), vmNo(2, DB)]),
    view([vmNo(3, DB), { ...vmNo(4, WEB), state: 'stopped' }, { ...vmNo(5, WEB), state: 'stopped' }]),
    view([vmNo(6, WEB), vmNo(7, WEB), vmNo(8, WEB)], {}, true),
  ]
  expect(templatesInDemand(nodes, qemu)).toEqual([
    { id: DB, vms: 2 },
    { id: WEB, vms: 1 },
  ])
})

test('what may not run here is in no demand', () => {
  const nodes = [
    view([vmNo(1, WEB)], { qemu: { ...qemu, accelerator: 'kvm' } }),
    view([vmNo(2, WEB)], { qemu: { ...qemu, version: '10.0.2' } }),
    view([vmNo(3, WEB)], { qemu: null }),
  ]
  expect(templatesInDemand(nodes, qemu)).toEqual([])
})

test('a node that a VM leaves needs its link', () => {
  expect(isSending(view([vmNo(1)]))).toBe(false)
  expect(isSending(view([vmNo(1), { ...vmNo(2), state: 'departing' }]))).toBe(true)
})

const plenty: Allowance = {
  limitBytes: GIB,
  spentBytes: 0,
  diskAvailableBytes: 100 * GIB,
  templateLimitBytes: null,
  templateBytes: 50 * GIB,
}

test.each<[string, Partial<Allowance>, number]>([
  ['an hour', {}, GIB],
  ['what is left of it', { spentBytes: 0.75 * GIB }, 0.25 * GIB],
  ['nothing when more was spent', { spentBytes: 2 * GIB }, 0],
  ['nothing when it is off', { limitBytes: 0 }, 0],
  ['a quarter of the free disk', { diskAvailableBytes: 2 * GIB }, 0.5 * GIB],
  ['nothing on a disk that can not be asked', { diskAvailableBytes: null }, 0],
  ['up to half of the limit', { templateLimitBytes: 4 * GIB, templateBytes: 1.5 * GIB }, 0.5 * GIB],
  ['nothing above it', { templateLimitBytes: 4 * GIB, templateBytes: 3 * GIB }, 0],
])('%s', (_what, allowance, expected) => {
  expect(prefetchableBytes({ ...plenty, ...allowance })).toBe(expected)
})

const PAGES = CHUNKS * 256

/** A node with a template of noise that its VM runs from, and one that has joined it and looks every 50 ms. */
async function setUp(stack: AsyncDisposableStack, { limitBytes = GIB } = {}) {
  const [holder, joiner] = [stack.use(await TestNode.start()), stack.use(await TestNode.start())]
  const noise = Object.fromEntries(
    Array.from({ length: PAGES }, (_, page) => [page, randomBytes(PAGE_BYTES)]),
  )
  const { id } = await addTemplate(holder.store, null, { noise })
  const facts = (store: TestNode['store'], vms: NodeVm[]) => () =>
    someFacts({ templates: store.list().map((record) => record.id), vms })
  const first = stack.use(await startNode('first', { facts: facts(holder.store, [vmNo(1, id)]) }))
  await first.mesh.handle(TEMPLATE_PROTOCOL, serveTemplate(holder.store))
  const second = stack.use(
    await startNode('second', { joinToken: first.mesh.token(), facts: facts(joiner.store, []) }),
  )
  await expect.poll(() => second.mesh.directory().length, { timeout: 10_000 }).toBe(2)
  const migrations = { isMoving: false }
  const switches = { isDraining: false }
  const events = new EventHub()
  const prefetch = new TemplatePrefetch(
    {
      mesh: second.mesh,
      templates: joiner.store,
      events,
      binary: qemu as never,
      migrations: migrations as never,
      isDraining: () => switches.isDraining,
      random: () => 0.5,
    },
    { limitBytes, templateLimitBytes: null, lookMs: 50, waitMs: () => 0 },
  )
  stack.defer(() => prefetch.stop())
  const ended = new AbortController()
  stack.defer(() => ended.abort())
  const seen: { kind: string; [field: string]: unknown }[] = []
  const reading = (async () => {
    for await (const event of events.read({ recent: true, signal: ended.signal })) seen.push(event)
  })()
  stack.defer(() => {
    ended.abort()
    return reading
  })
  prefetch.start()
  return { id, store: joiner.store, prefetch, migrations, switches, seen }
}

const kinds = (seen: readonly { kind: string }[]) => seen.map(({ kind }) => kind)

test('a node that joins gets the template that VMs there run from, and not again once it is removed', async () => {
  await using stack = new AsyncDisposableStack()
  const { id, store, prefetch, seen, switches } = await setUp(stack)
  switches.isDraining = true
  await new Promise((resolve) => setTimeout(resolve, 300))
  expect(seen).toEqual([])
  switches.isDraining = false
  await expect.poll(() => store.has(id), { timeout: 12_000 }).toBe(true)
  await expect
    .poll(() => kinds(seen))
    .toEqual(['template-prefetch-started', 'template-pulled', 'template-prefetched'])
  expect(seen.at(-1)).toMatchObject({ id, vms: 1, bytesReceived: expect.any(Number) })
  const { bytesReceived, bytesSent } = seen.find(({ kind }) => kind === 'template-pulled') as never
  expect(bytesReceived).toBeGreaterThan(PAGES * PAGE_BYTES)
  expect(prefetch.status().spentBytes).toBe(bytesReceived + bytesSent)
  await new Promise((resolve) => setTimeout(resolve, 150))
  await store.remove(id)
  await new Promise((resolve) => setTimeout(resolve, 500))
  expect(store.has(id)).toBe(false)
})

test('it gives way to a move, and goes on from there after it', async () => {
  await using stack = new AsyncDisposableStack()
  const { id, store, migrations, seen } = await setUp(stack)
  await expect.poll(() => kinds(seen), { timeout: 10_000 }).toContain('template-prefetch-started')
  migrations.isMoving = true
  await expect
    .poll(() => seen.at(-1))
    .toMatchObject({ kind: 'template-prefetch-ended', id, reason: 'gives-way' })
  expect(store.has(id)).toBe(false)
  await new Promise((resolve) => setTimeout(resolve, 300))
  expect(kinds(seen)).toHaveLength(2)
  migrations.isMoving = false
  await expect.poll(() => store.has(id), { timeout: 12_000 }).toBe(true)
})

test('one that is larger than what may come is left after a look at its manifest', async () => {
  await using stack = new AsyncDisposableStack()
  const { id, store, prefetch, seen } = await setUp(stack, { limitBytes: 2 ** 20 })
  await expect
    .poll(() => seen.at(-1), { timeout: 10_000 })
    .toMatchObject({ kind: 'template-prefetch-ended', id, reason: 'too-large' })
  await new Promise((resolve) => setTimeout(resolve, 500))
  expect(kinds(seen)).toHaveLength(2)
  expect(prefetch.status().spentBytes).toBe(0)
  expect(store.list()).toEqual([])
})
