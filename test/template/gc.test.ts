import { mkdir, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { chooseForRemoval, type GcCandidate } from '../../src/template/gc.ts'
import { addTemplate, TestNode } from './fixture.ts'

const candidate = (id: string, change: Partial<GcCandidate> = {}): GcCandidate => ({
  id,
  bytes: 100,
  usedAtMs: 0,
  isElsewhere: false,
  isInUse: false,
  ...change,
})

test.each<[what: string, candidates: GcCandidate[], limitBytes: number, chosen: string[]]>([
  ['nothing while all fits', [candidate('a'), candidate('b')], 200, []],
  ['the longest unused', [candidate('a', { usedAtMs: 2 }), candidate('b', { usedAtMs: 1 })], 199, ['b']],
  [
    'what others have before what would be lost',
    [candidate('a', { usedAtMs: 1 }), candidate('b', { usedAtMs: 2, isElsewhere: true })],
    100,
    ['b'],
  ],
  [
    'nothing in use, even if the limit is not kept',
    [candidate('a', { isInUse: true }), candidate('b')],
    0,
    ['b'],
  ],
  [
    'no more than it takes',
    [candidate('a', { usedAtMs: 1 }), candidate('b', { usedAtMs: 2 }), candidate('c', { usedAtMs: 3 })],
    250,
    ['a'],
  ],
])('removes %s', (_, candidates, limitBytes, chosen) => {
  expect(chooseForRemoval(candidates, limitBytes)).toEqual(chosen)
})

const nobody = { isElsewhere: () => false, spareNewest: false }

test('a store keeps to its limit, and to what VMs need', async () => {
  await using node = await TestNode.start()
  const [a, b, c] = [
    await addTemplate(node.store, 'a', { kernel: 'a' }),
    await addTemplate(node.store, 'b', { kernel: 'b' }),
    await addTemplate(node.store, 'c', { kernel: 'c' }),
  ]
  node.vms.set(a.id, ['web'])
  await sleep(5)
  await node.store.used(b.id)
  const { keptBytes } = await node.store.gc({ limitBytes: null, ...nobody })
  const limitBytes = Math.floor((keptBytes * 2) / 3)
  const { removed } = await node.store.gc({ limitBytes, ...nobody })
  expect(removed.map(({ record }) => record.id)).toEqual([c.id])
  expect(
    (await node.store.gc({ limitBytes: 0, isElsewhere: () => true, spareNewest: true })).removed,
  ).toEqual([])
  expect(
    (await node.store.gc({ limitBytes: 0, ...nobody })).removed.map(({ record }) => record.names),
  ).toEqual([['b']])
  expect(node.store.list().map(({ id }) => id)).toEqual([a.id])
})

test('when it was used outlives the agent', async () => {
  await using node = await TestNode.start()
  const first = await addTemplate(node.store, 'first', { kernel: 'a' })
  await addTemplate(node.store, 'second', { kernel: 'b' })
  await sleep(5)
  await node.store.used(first.id)
  await node.restart()
  const { removed } = await node.store.gc({ limitBytes: 0, isElsewhere: () => false, spareNewest: true })
  expect(removed.map(({ record }) => record.names)).toEqual([['second']])
})

test('what an interrupted fetch left is removed, and counted', async () => {
  await using node = await TestNode.start()
  const { id } = await addTemplate(node.store)
  const dir = join(node.templatesDir, `fetch-${id}`)
  await mkdir(dir)
  await writeFile(join(dir, 'ram'), Buffer.alloc(8192, 1))
  await node.restart()
  expect(await readdir(node.templatesDir)).toContain(`fetch-${id}`)
  expect((await node.store.gc({ limitBytes: null, ...nobody })).partialBytes).toBeGreaterThanOrEqual(8192)
  expect(await readdir(node.templatesDir)).toEqual([id])
})
