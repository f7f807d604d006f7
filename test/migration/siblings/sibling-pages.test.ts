import { randomBytes } from 'node:crypto'
import { MessageChannel, receiveMessageOnPort } from 'node:worker_threads'
import { expect, test } from 'vitest'
import { REFERENCE_BYTES } from '../../../src/codec/index.ts'
import { PageBitmap } from '../../../src/domain/bitmap.ts'
import {
  type HashedPages,
  hashPrefix,
  PageHasher,
  referenceHash,
} from '../../../src/migration/siblings/hashed-pages.ts'
import { SiblingLookup } from '../../../src/migration/siblings/sibling-lookup.ts'
import { BufferMemory } from '../../support/buffer-memory.ts'

function hashPages(memory: BufferMemory, indices: Iterable<number>, maxPages = 10_000): HashedPages {
  const hasher = new PageHasher(PageBitmap.from(memory.pages, indices), maxPages)
  while (hasher.step(memory));
  return hasher.take()
}

const upTo = (end: number) => Array.from({ length: end }, (_, index) => index)

/** Pages as a hasher would give them, with hashes that were chosen. */
function chosen(hashes: readonly Buffer[]): HashedPages {
  const order = hashes.map((hash, place) => hashPrefix(hash, 0) * 2 ** 20 + place)
  return {
    hashes: Buffer.concat(hashes),
    indices: Uint32Array.from(hashes, (_, index) => index),
    order: Float64Array.from(order).sort(),
  }
}

test('finds every page that was hashed, and nothing else', () => {
  const memory = BufferMemory.random(1000, { zeros: [5, 702] })
  const indices = upTo(1000).filter((index) => index % 3 !== 1)
  const pages = hashPages(memory, indices)
  expect([...pages.indices]).toEqual(indices.filter((index) => index !== 5 && index !== 702))
  const lookup = new SiblingLookup([{ pages, memory }])
  for (const index of upTo(1000)) {
    const found = lookup.page(referenceHash(memory.page(index)))
    expect(found === null, `page ${index}`).toBe(!pages.indices.includes(index))
    if (found !== null) expect(Buffer.compare(found, memory.page(index))).toBe(0)
  }
  expect(lookup.page(randomBytes(REFERENCE_BYTES))).toBeNull()
})

test('a VM of more pages than there is room for is hashed up to there', () => {
  const memory = BufferMemory.random(600)
  expect(hashPages(memory, upTo(600), 300).indices).toHaveLength(300)
  expect(hashPages(memory, [], 300).indices).toHaveLength(0)
})

test('hashes lie in memory that threads share', () => {
  const memory = BufferMemory.random(3)
  const pages = hashPages(memory, upTo(3))
  const { port1, port2 } = new MessageChannel()
  port1.postMessage(pages)
  const there = receiveMessageOnPort(port2)!.message as HashedPages
  port1.close()
  // Seen there, because it is the same memory.
  pages.hashes[0]! ^= 1
  expect(there).toEqual(pages)
  pages.hashes[0]! ^= 1
  const lookup = new SiblingLookup([{ pages: there, memory }])
  expect(lookup.page(referenceHash(memory.page(0)))).not.toBeNull()
})

test('a page that changed since is found in another VM, or not at all', () => {
  const [old, young] = [BufferMemory.random(8), new BufferMemory(8)]
  young.bytes.set(old.bytes)
  const siblings = [old, young].map((memory) => ({ pages: hashPages(memory, upTo(8)), memory }))
  const content = Buffer.from(old.page(3))
  const hash = referenceHash(content)
  old.page(3)[17]! ^= 1
  const lookup = new SiblingLookup(siblings)
  expect(Buffer.compare(lookup.page(hash)!, content)).toBe(0)
  young.page(3).fill(1)
  expect(lookup.page(hash)).toBeNull()
})

test('a page that is there twice is found while one of both is as it was', () => {
  const memory = BufferMemory.random(4)
  memory.page(2).set(memory.page(0))
  const hash = referenceHash(memory.page(0))
  const pages = hashPages(memory, upTo(4))
  memory.page(0).fill(1)
  expect(new SiblingLookup([{ pages, memory }]).page(hash)).not.toBeNull()
})

test('copies of a page that were all written since are not all read for each reference', () => {
  const memory = new BufferMemory(1000)
  memory.bytes.fill(1)
  const hash = referenceHash(memory.page(0))
  const pages = hashPages(memory, upTo(1000))
  memory.bytes.fill(2)
  let reads = 0
  const read: BufferMemory['read'] = (run, into) => {
    reads++
    memory.read(run, into)
  }
  expect(new SiblingLookup([{ pages, memory: { read } }]).page(hash)).toBeNull()
  expect(reads).toBeLessThan(10)
})

test('hashes that begin alike are told apart, and none is believed', () => {
  const memory = BufferMemory.random(4)
  const hash = referenceHash(memory.page(2))
  const alike = [1, 2, 3].map((last) =>
    Buffer.concat([hash.subarray(0, 15), Buffer.from([hash[15]! ^ last])]),
  )
  const lookup = new SiblingLookup([{ pages: chosen([alike[0]!, alike[1]!, hash, alike[2]!]), memory }])
  expect(Buffer.compare(lookup.page(hash)!, memory.page(2))).toBe(0)
  // In the table, but of no page: what is read there is hashed before it is taken.
  for (const other of alike) expect(lookup.page(other)).toBeNull()
})

test('the first and the last of all hashes are found', () => {
  const memory = new BufferMemory(2)
  const [least, most] = [Buffer.alloc(REFERENCE_BYTES), Buffer.alloc(REFERENCE_BYTES, 0xff)]
  let reads = 0
  const read = (): void => {
    reads++
  }
  const lookup = new SiblingLookup([{ pages: chosen([least, most]), memory: { ...memory, read } }])
  for (const hash of [least, most]) expect(lookup.page(hash)).toBeNull()
  expect(reads).toBe(2)
})

test('a VM that is gone has no pages; the others still do', () => {
  const [gone, there] = [BufferMemory.random(4), BufferMemory.random(4)]
  const [pagesGone, pages] = [hashPages(gone, upTo(4)), hashPages(there, upTo(4))]
  let asked = 0
  const read = () => {
    asked++
    throw new Error('gone')
  }
  const lookup = new SiblingLookup([
    { pages: pagesGone, memory: { read } },
    { pages, memory: there },
  ])
  for (const index of upTo(4)) {
    expect(lookup.page(referenceHash(gone.page(index)))).toBeNull()
    expect(lookup.page(referenceHash(there.page(index)))).not.toBeNull()
  }
  expect(asked).toBe(1)
})

test('all pages of a batch are valid together', () => {
  const memory = BufferMemory.random(256)
  const lookup = new SiblingLookup([{ pages: hashPages(memory, upTo(256)), memory }])
  const found = upTo(256).map((index) => lookup.page(referenceHash(memory.page(index)))!)
  for (const index of upTo(256)) {
    expect(Buffer.compare(found[index]!, memory.page(index)), `${index}`).toBe(0)
  }
})

test('with no siblings nothing is found', () => {
  expect(new SiblingLookup([]).page(randomBytes(REFERENCE_BYTES))).toBeNull()
})
