import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Level } from 'level'
import { expect, test } from 'vitest'
import { nextIncarnation } from '../../src/mesh/incarnation.ts'

test('each start counts as later than the one before, whatever the clock says', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'drover-mesh-'))
  const db = new Level<string, unknown>(join(dir, 'db'), { valueEncoding: 'json' })
  expect(await nextIncarnation(db, 5000.7)).toBe(5000)
  expect(await nextIncarnation(db, 7000)).toBe(7000)
  expect(await nextIncarnation(db, 0)).toBe(7001)
  expect(await nextIncarnation(db, 7001)).toBe(7002)
  await db.close()
  await rm(dir, { recursive: true })
})
