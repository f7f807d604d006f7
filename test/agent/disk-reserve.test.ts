/** The file that holds space for what must be written on a full disk. */
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { DiskReserve } from '../../src/agent/disk-reserve.ts'

test('given up is also what an agent that was killed had made of it', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'drover-reserve-'))
  onTestFinished(() => rm(dir, { recursive: true }))
  await writeFile(join(dir, 'reserve.new'), 'half')
  const reserve = new DiskReserve({ dir, path: join(dir, 'reserve') })
  // It isn't made again, however much room there is.
  await reserve.stop()
  await reserve.release()
  expect(await readdir(dir)).toEqual([])
})
