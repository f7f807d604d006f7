import { randomBytes } from 'node:crypto'
import { truncate } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { PageBitmap } from '../../../src/domain/bitmap.ts'
import { PAGE_BYTES } from '../../../src/domain/page.ts'
import { PageThreads } from '../../../src/migration/threads/page-threads.ts'
import { makeSlots } from '../../../src/migration/threads/slots.ts'
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

function bitmap(...indices: number[]): PageBitmap {
  const pages = new PageBitmap(PAGES)
  for (const index of indices) pages.add(index)
  return pages
}
