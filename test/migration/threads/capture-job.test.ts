import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { PageBitmap } from '../../../src/domain/bitmap.ts'
import { PAGE_BYTES } from '../../../src/domain/page.ts'
import { hashPrefix, referenceHash } from '../../../src/migration/siblings/hashed-pages.ts'
import { encodeFilter } from '../../../src/migration/siblings/sibling-filter.ts'
import { PageThreads } from '../../../src/migration/threads/page-threads.ts'
import { makeSlots } from '../../../src/migration/threads/slots.ts'
import { encodeBeginning, encodePages, RAM_BLOCK } from '../../../src/qemu/stream-format.ts'
import { startBareMemory } from '../../support/bare-memory.ts'

const PAGES = 512

test('what a job that failed has read of its guest does not get into the next one', async () => {
  await using guest = await startBareMemory(PAGES)
  const { pid, ramPath } = guest
  for (const page of [3, 20]) await guest.write(page, randomBytes(PAGE_BYTES))
  await using cleanup = new AsyncDisposableStack()
  const threads = cleanup.adopt(new PageThreads({ threads: 1 }), (threads) => threads.close())
  const open = () =>
    threads.open('capture', {
      pid,
      ramPath,
      memoryBytes: PAGES * PAGE_BYTES,
      seed: 1,
      outgoing: null,
      tablePath: join(guest.dir, 'table'),
      slots: makeSlots(1),
      dictionary: new Uint8Array(0),
    })
  const round = (...candidates: number[]) => ({
    round: 1,
    private: bitmap(3, 20).words(),
    candidates: bitmap(...candidates).words(),
    mayRefer: false,
    batchPages: 64,
  })
  await using failing = await open()
  await using next = await open()
  await failing.call('begin', [round(3, PAGES - 1)])
  await next.call('begin', [round(20)])
  // Page 3 is read, the last one is not there.
  await truncate(ramPath, PAGE_BYTES * 100)
  await expect(failing.call('next', [0, null])).rejects.toThrow()
  expect(await next.call('next', [0, null])).toMatchObject({ pages: { raw: 1 }, isLast: true })
})

test('a page that QEMU sends goes as content: it comes once, and a reference may lead nowhere', async () => {
  await using cleanup = new AsyncDisposableStack()
  const dir = await mkdtemp(join(tmpdir(), 'drover-capture-'))
  cleanup.defer(() => rm(dir, { recursive: true }))
  const ramPath = join(dir, 'ram')
  await writeFile(ramPath, Buffer.alloc(PAGES * PAGE_BYTES))
  const threads = cleanup.adopt(new PageThreads({ threads: 1 }), (threads) => threads.close())
  const socketPath = join(dir, 'outgoing')
  await using job = await threads.open('capture', {
    pid: process.pid,
    ramPath,
    memoryBytes: PAGES * PAGE_BYTES,
    seed: 1,
    outgoing: { socketPath, passEnded: new SharedArrayBuffer(4), extraBlocks: [] },
    tablePath: null,
    slots: makeSlots(1),
    dictionary: new Uint8Array(0),
  })
  const content = randomBytes(PAGE_BYTES)
  const siblings = encodeFilter(Uint32Array.of(hashPrefix(referenceHash(content), 0)))
  await job.call('accepted', [{ baseline: false, siblings }])
  const words = bitmap().words()
  await job.call('begin', [{ round: 1, private: words, candidates: words, mayRefer: true, batchPages: 64 }])
  const qemu = cleanup.adopt(connect(socketPath), (socket) => void socket.destroy())
  await once(qemu, 'connect')
  qemu.write(encodeBeginning('pc-q35-7.2', [{ name: RAM_BLOCK, usedBytes: PAGES * PAGE_BYTES }]))
  for (const chunk of encodePages(RAM_BLOCK, [{ offsetBytes: 0, content }])) qemu.write(chunk)
  await expect.poll(async () => (await job.call('next', [0, null])).pages).toEqual({ raw: 1 })
})

function bitmap(...indices: number[]): PageBitmap {
  const pages = new PageBitmap(PAGES)
  for (const index of indices) pages.add(index)
  return pages
}
