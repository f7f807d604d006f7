import { readdir, readlink } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { PageBitmap } from '../../../src/domain/bitmap.ts'
import { PAGE_BYTES } from '../../../src/domain/page.ts'
import { PageHasher } from '../../../src/migration/siblings/hashed-pages.ts'
import { ArrivalJob } from '../../../src/migration/threads/arrival-job.ts'
import { makeSlots } from '../../../src/migration/threads/slots.ts'
import { startBareMemory } from '../../support/bare-memory.ts'

const PAGES = 64

/** Files of other processes that this one has open. */
async function openOf(pid: number): Promise<string[]> {
  const fds = await readdir('/proc/self/fd')
  const targets = await Promise.all(fds.map((fd) => readlink(join('/proc/self/fd', fd)).catch(() => '')))
  return targets.filter((target) => target.startsWith(`/proc/${pid}/`))
}

test('an arrival that can not begin holds no memory of its siblings', async () => {
  await using sibling = await startBareMemory(PAGES)
  const { pid, ramPath, dir } = sibling
  const memoryBytes = PAGES * PAGE_BYTES
  const pages = new PageHasher(new PageBitmap(PAGES), PAGES).take()
  const init = {
    memoryBytes,
    seed: 1,
    slots: makeSlots(1),
    extraBlocks: [],
    dictionary: new Uint8Array(0),
    siblings: [{ guest: { pid, ramPath, memoryBytes }, pages }],
  }
  const job = await ArrivalJob.open({ ...init, ramPath })
  expect(await openOf(pid)).not.toEqual([])
  await job.close()
  await expect(ArrivalJob.open({ ...init, ramPath: join(dir, 'nowhere') })).rejects.toThrow(/ENOENT/)
  expect(await openOf(pid)).toEqual([])
})
