import { expect, test } from 'vitest'
import { PageBitmap } from '../../../src/domain/bitmap.ts'
import { PAGE_BYTES } from '../../../src/domain/page.ts'
import { PageHasher, referenceHash } from '../../../src/migration/siblings/hashed-pages.ts'
import { SiblingFilter } from '../../../src/migration/siblings/sibling-filter.ts'
import { type Sibling, SiblingIndex } from '../../../src/migration/siblings/sibling-index.ts'
import { BufferMemory } from '../../support/buffer-memory.ts'

const TEMPLATE = `bafkrei${'a'.repeat(52)}`
const OTHER_TEMPLATE = `bafkrei${'b'.repeat(52)}`
const guest = { pid: 1, ramPath: '/', memoryBytes: 0 }

const upTo = (end: number) => Array.from({ length: end }, (_, index) => index)

function sibling(vmId: string, memory: BufferMemory, templateId = TEMPLATE): Sibling {
  const hasher = new PageHasher(PageBitmap.from(memory.pages, upTo(memory.pages)), memory.pages)
  while (hasher.step(memory));
  return { vmId, templateId, guest, pages: hasher.take() }
}

const idsOf = (index: SiblingIndex) => index.of(TEMPLATE).map(({ vmId }) => vmId)

/** Of how many of the first pages of a VM the filter says that they are there. */
function found(
  index: SiblingIndex,
  memory: BufferMemory,
  { maxEntries = 65_536, templateId = TEMPLATE } = {},
) {
  const filter = SiblingFilter.decode(index.filter(templateId, maxEntries))
  return upTo(memory.pages).filter((page) => filter.has(referenceHash(memory.page(page))))
}

test('tells the VMs of a template, the newest first, until they go', () => {
  const index = new SiblingIndex(() => true)
  for (const vmId of ['a', 'b', 'c']) index.add(sibling(vmId, BufferMemory.random(4)))
  index.add(sibling('other', BufferMemory.random(4), OTHER_TEMPLATE))
  expect(idsOf(index)).toEqual(['c', 'b', 'a'])
  index.remove('b')
  index.remove('never here')
  expect(idsOf(index)).toEqual(['c', 'a'])
  index.add(sibling('a', BufferMemory.random(2)))
  expect(idsOf(index)).toEqual(['a', 'c'])
  expect(index.of(TEMPLATE)[0]!.pages.indices).toHaveLength(2)
})

test('the oldest VMs go where there are too many pages', () => {
  const index = new SiblingIndex(() => true, { maxPages: 10 })
  for (const vmId of ['a', 'b', 'c']) index.add(sibling(vmId, BufferMemory.random(4)))
  expect(idsOf(index)).toEqual(['c', 'b'])
  index.add(sibling('d', BufferMemory.random(10)))
  expect(idsOf(index)).toEqual(['d'])
})

test('the filter has what the VMs of the template have, and follows them', () => {
  const index = new SiblingIndex(() => true)
  const [a, b] = [BufferMemory.random(300), BufferMemory.random(300)]
  const counts = () => [a, b].map((memory) => found(index, memory).length)
  expect(index.filter(TEMPLATE, 65_536)).toHaveLength(0)
  index.add(sibling('a', a))
  expect(counts()).toEqual([300, 0])
  index.add(sibling('b', b))
  expect(counts()).toEqual([300, 300])
  expect(found(index, a, { templateId: OTHER_TEMPLATE })).toHaveLength(0)
  index.remove('a')
  expect(counts()).toEqual([0, 300])
  index.remove('b')
  expect(index.filter(TEMPLATE, 65_536)).toHaveLength(0)
})

test('VMs that do not run any more have no pages', () => {
  const running = new Set(['a', 'b'])
  const index = new SiblingIndex((vmId) => running.has(vmId))
  const [a, b] = [BufferMemory.random(8), BufferMemory.random(8)]
  index.add(sibling('a', a))
  index.add(sibling('b', b))
  running.delete('a')
  expect([a, b].map((memory) => found(index, memory).length)).toEqual([0, 8])
  expect(idsOf(index)).toEqual(['b'])
})

test('where not all find room, pages that several VMs have go first', () => {
  const index = new SiblingIndex(() => true)
  const [a, b] = [BufferMemory.random(200), BufferMemory.random(200)]
  b.bytes.set(a.bytes.subarray(0, 20 * PAGE_BYTES))
  index.add(sibling('a', a))
  index.add(sibling('b', b))
  const [ofA, ofB] = [a, b].map((memory) => found(index, memory, { maxEntries: 60 }))
  expect(ofA!.slice(0, 20)).toEqual(upTo(20))
  expect(ofB!.slice(0, 20)).toEqual(upTo(20))
  expect(ofA!.length + ofB!.length - 20).toBe(60)
  expect(found(index, a, { maxEntries: 10 }).every((page) => page < 20)).toBe(true)
  expect(index.filter(TEMPLATE, 0)).toHaveLength(0)
})
