import type { Level } from 'level'
import { beforeEach, expect, test } from 'vitest'
import { MigrationError } from '../../src/migration/index.ts'
import { MoveMeter } from '../../src/migration/meter.ts'
import { MoveReports } from '../../src/migration/move-reports.ts'
import { temporaryDatabase } from '../support/database.ts'

let db: Level<string, unknown>
beforeEach(async () => {
  db = await temporaryDatabase()
})

function report(
  migrationId: string,
  outcome: 'completed' | 'in-doubt' | 'failed',
  code?: 'MIGRATION_INTERRUPTED',
) {
  const move = { migrationId, vm: 'web', from: 'a', to: 'b', templateId: 't' }
  return new MoveMeter(move).finish(outcome, code === undefined ? null : new MigrationError(code, 'so'))
}

test('what a disk refuses is there all the same, and written with the next', async () => {
  const reports = new MoveReports(db)
  const written = async () => (await new MoveReports(db).all()).map(({ migrationId }) => migrationId)
  await reports.save(report('first', 'completed'))
  const disk = db as unknown as { _batch: (...write: unknown[]) => Promise<void> }
  const batch = disk._batch.bind(db)
  disk._batch = async () => {
    throw new Error('no space left on device')
  }
  await reports.save(report('second', 'completed'))
  expect(await reports.get('second')).toMatchObject({ outcome: 'completed' })
  expect((await reports.all()).map(({ migrationId }) => migrationId)).toEqual(['first', 'second'])
  expect(await written()).toEqual(['first'])
  disk._batch = batch
  await reports.save(report('third', 'completed'))
  expect(await written()).toEqual(['first', 'second', 'third'])
})

test.each([
  ['in doubt', report('m', 'in-doubt'), 'granted', 'completed'],
  ['in doubt', report('m', 'in-doubt'), 'refused', 'failed'],
  ['left by a killed agent', report('m', 'failed', 'MIGRATION_INTERRUPTED'), 'granted', 'completed'],
  ['completed', report('m', 'completed'), 'refused', 'completed'],
] as const)('a move that is %s and turns out %s: %s', async (_, saved, verdict, outcome) => {
  const reports = new MoveReports(db)
  await reports.save(saved)
  await reports.correct('m', verdict)
  expect(await new MoveReports(db).get('m')).toMatchObject({ outcome })
})

test('a report that can not be read keeps nobody from acting on the verdict', async () => {
  const reports = new MoveReports(db)
  await reports.save(report('m', 'in-doubt'))
  const disk = db as unknown as { _get: (...read: unknown[]) => Promise<unknown> }
  const get = disk._get.bind(db)
  disk._get = async () => {
    throw new Error('no space left on device')
  }
  await reports.correct('m', 'granted')
  disk._get = get
  await reports.correct('m', 'granted')
  expect(await reports.get('m')).toMatchObject({ outcome: 'completed' })
})
