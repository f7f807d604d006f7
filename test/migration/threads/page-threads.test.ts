import { randomBytes } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { PageHashes } from '../../../src/codec/index.ts'
import { PAGE_BYTES } from '../../../src/domain/page.ts'
import type { ArrivalInit, GroupInSlot } from '../../../src/migration/threads/arrival-job.ts'
import { PageThreads } from '../../../src/migration/threads/page-threads.ts'
import { makeSlots } from '../../../src/migration/threads/slots.ts'

const PAGES = 512

let dir: string
let threads: PageThreads
let init: ArrivalInit
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'drover-threads-'))
  threads = new PageThreads({ threads: 1 })
  const ramPath = join(dir, 'ram')
  await writeFile(ramPath, randomBytes(PAGES * PAGE_BYTES))
  init = {
    ramPath,
    memoryBytes: PAGES * PAGE_BYTES,
    seed: 1,
    slots: makeSlots(2),
    extraBlocks: [],
    dictionary: new Uint8Array(0),
    siblings: [],
  }
})
afterEach(async () => {
  await threads.close()
  await rm(dir, { recursive: true, force: true })
})

/** Puts pages of random bytes into a slot, as a frame would bring them. */
function fill(slot: number, indices: number[]): { group: GroupInSlot; contents: Buffer } {
  const contents = randomBytes(indices.length * PAGE_BYTES)
  new Uint8Array(init.slots[slot]!).set(contents, 100)
  return { group: { encoding: 'raw', indices, offsetBytes: 100, lengthBytes: contents.length }, contents }
}

test('calls of a job are answered in order, and jobs do not see each other', async () => {
  await using first = await threads.open('arrival', init)
  await using second = await threads.open('arrival', { ...init, slots: makeSlots(2) })
  const hashes = new PageHashes(PAGES, 1)
  const answers: Promise<unknown>[] = []
  for (const slot of [0, 1]) {
    const indices = [slot * 10, slot * 10 + 1]
    const { group, contents } = fill(slot, indices)
    indices.forEach((index, i) => {
      hashes.update(index, contents.subarray(i * PAGE_BYTES, (i + 1) * PAGE_BYTES))
    })
    answers.push(first.call('apply', [slot, [group]]))
  }
  const state = Buffer.from('28b52ffd2000010000', 'hex')
  const finished = first.call('finish', [state, 0])
  for (const answer of answers) expect(await answer).toMatchObject({ lost: [] })
  expect(Buffer.compare((await finished).digest, hashes.digest(hashes.known))).toBe(0)
  const empty = new PageHashes(PAGES, 1)
  expect(Buffer.compare((await second.call('finish', [state, 0])).digest, empty.digest(empty.known))).toBe(0)
})

test('an error keeps its code on its way out of the thread, and the job goes on', async () => {
  await using job = await threads.open('arrival', init)
  const beyond = { encoding: 'zero' as const, indices: [PAGES], offsetBytes: 0, lengthBytes: 0 }
  await expect(job.call('apply', [0, [beyond]])).rejects.toMatchObject({
    code: 'BATCH_MALFORMED',
    outcome: 'failed',
  })
  expect(await job.call('apply', [0, [{ ...beyond, indices: [0] }]])).toMatchObject({ lost: [] })
})

test('a job that can not begin says why', async () => {
  const nowhere = { ...init, ramPath: join(dir, 'nowhere') }
  await expect(threads.open('arrival', nowhere)).rejects.toThrow(/ENOENT/)
  const guest = { pid: process.pid, seed: 1, outgoing: null, tablePath: join(dir, 'table') }
  await expect(threads.open('capture', { ...init, ...guest })).rejects.toMatchObject({
    code: 'MEMORY_MAPPING_NOT_FOUND',
  })
})

test('when a thread ends, what was asked of it fails, and the next job gets another', async () => {
  const job = await threads.open('arrival', init)
  const asked = Array.from({ length: 50 }, () => job.call('saveTable', [join(dir, 'table')]))
  const outcomes = Promise.allSettled(asked)
  await threads.close()
  expect((await outcomes).at(-1)).toMatchObject({ status: 'rejected', reason: { code: 'PAGE_THREAD_ENDED' } })
  await expect(job.call('saveTable', [join(dir, 'table')])).rejects.toMatchObject({
    code: 'PAGE_THREAD_ENDED',
  })
  await job[Symbol.asyncDispose]()
  await using next = await threads.open('arrival', init)
  await next.call('saveTable', [join(dir, 'table')])
})
