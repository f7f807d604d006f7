import { expect, test } from 'vitest'
import { nextIncarnation } from '../../src/mesh/incarnation.ts'
import { temporaryDatabase } from '../support/database.ts'

test('each start counts as later than the one before, whatever the clock says', async () => {
  const db = await temporaryDatabase()
  expect(await nextIncarnation(db, 5000.7)).toBe(5000)
  expect(await nextIncarnation(db, 7000)).toBe(7000)
  expect(await nextIncarnation(db, 0)).toBe(7001)
  expect(await nextIncarnation(db, 7001)).toBe(7002)
})
