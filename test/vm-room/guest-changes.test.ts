import { afterEach, beforeEach, expect, test } from 'vitest'
import { PageBitmap } from '../../src/domain/bitmap.ts'
import { PAGE_BYTES } from '../../src/domain/page.ts'
import { type DirtyTracker, type GuestMemory, hashTracker } from '../../src/memory/index.ts'
import { GuestChanges } from '../../src/vm/guest-changes.ts'
import { type BareMemory, startBareMemory } from '../support/bare-memory.ts'

const PAGES = 1024

let bare: BareMemory
let memory: GuestMemory

beforeEach(async () => {
  bare = await startBareMemory(PAGES)
  memory = await bare.open()
})
afterEach(async () => {
  await memory.close()
  await bare[Symbol.asyncDispose]()
})

function page(byte: number): Buffer {
  return Buffer.alloc(PAGE_BYTES, byte)
}

/** One look: runs as first page and the byte that each page begins with. */
async function look(changes: GuestChanges): Promise<[first: number, bytes: number[]][]> {
  const runs: [number, number[]][] = []
  for await (const { first, bytes } of changes.look()) {
    const pages = bytes.length / PAGE_BYTES
    runs.push([first, Array.from({ length: pages }, (_, slot) => bytes[slot * PAGE_BYTES]!)])
  }
  return runs
}

test('first every private page, then what holds something else than when it was given', async () => {
  const changes = new GuestChanges({ memory, tracker: hashTracker(memory) })
  expect(await look(changes)).toEqual([])
  for (const [index, byte] of [
    [3, 1],
    [4, 2],
    [5, 3],
    [900, 4],
  ] as const)
    await bare.write(index, page(byte))
  expect(await look(changes)).toEqual([
    [3, [1, 2, 3]],
    [900, [4]],
  ])
  expect(await look(changes)).toEqual([])
  // Page 4 is written with what it holds, its neighbours with something else.
  for (const [index, byte] of [
    [3, 7],
    [4, 2],
    [5, 8],
    [6, 9],
  ] as const)
    await bare.write(index, page(byte))
  expect(await look(changes)).toEqual([
    [3, [7]],
    [5, [8, 9]],
  ])
})

test('runs are cut at 1 MiB, and nothing is lost between them', async () => {
  await bare.write(100, Buffer.alloc(600 * PAGE_BYTES, 5))
  const runs = await look(new GuestChanges({ memory, tracker: hashTracker(memory) }))
  expect(runs.map(([first, bytes]) => [first, bytes.length])).toEqual([
    [100, 256],
    [356, 256],
    [612, 88],
  ])
})

test("a page that is private no more is read again: it may hold the template's content", async () => {
  await bare.write(20, page(2))
  const own = [PageBitmap.from(PAGES, [20]), new PageBitmap(PAGES), new PageBitmap(PAGES)]
  // Of a guest that gave the page back between the first look and the second.
  const tracker: DirtyTracker = {
    kind: 'soft-dirty',
    next: async () => {
      const pages = own.shift()!
      return { private: pages, candidates: pages }
    },
  }
  const changes = new GuestChanges({ memory, tracker })
  expect(await look(changes)).toEqual([[20, [2]]])
  const content = bare.template.subarray(20 * PAGE_BYTES, 21 * PAGE_BYTES)
  await bare.write(20, content)
  expect(await look(changes)).toEqual([[20, [content[0]]]])
  expect(await look(changes)).toEqual([])
})
