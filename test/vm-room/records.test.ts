/** VM records on a real database. */
import { expect, test } from 'vitest'
import { steadyNowMs } from '../../src/domain/clock.ts'
import { VmRecords } from '../../src/vm/records.ts'
import { temporaryDatabase } from '../support/database.ts'
import { NEVER_MOVED, someVmSpec } from '../support/vm-spec.ts'

test('a record by a clock that was ahead is of now, one of the past stays', async () => {
  const db = await temporaryDatabase()
  const records = new VmRecords(db)
  const beforeMs = Math.floor(steadyNowMs())
  const aheadMs = beforeMs + 86_400_000
  for (const [id, atMs] of [
    ['ahead', aheadMs],
    ['past', 1000],
  ] as const) {
    await records.put({
      spec: someVmSpec({ id, name: id, templateId: 'web' }),
      epoch: 1,
      state: { kind: 'stopped', reason: 'it was', doubt: null },
      runDirName: id,
      createdAtMs: atMs,
      coolDown: { ...NEVER_MOVED, atMs },
    })
  }
  const [ahead, past] = await records.load()
  const times = [ahead!.createdAtMs, ahead!.coolDown.atMs]
  for (const atMs of times) expect(atMs).toBeGreaterThanOrEqual(beforeMs)
  for (const atMs of times) expect(atMs).toBeLessThanOrEqual(Math.ceil(steadyNowMs()))
  expect([past!.createdAtMs, past!.coolDown.atMs]).toEqual([1000, 1000])
})
