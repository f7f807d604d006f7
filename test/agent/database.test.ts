/** What a full disk does to the agent's database, and what it would do to LevelDB alone. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Level } from 'level'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { type Database, openDatabase } from '../../src/agent/database.ts'
import { RESERVE_BYTES } from '../../src/agent/disk-reserve.ts'
import { errorBody } from '../../src/domain/errors.ts'
import { SmallDisk } from '../support/small-disk.ts'

/** Larger than what a last page of the log has room for. */
const VALUE = 'x'.repeat(5000)

let disk: SmallDisk | string
beforeEach(async () => {
  disk = await SmallDisk.mount(64)
})
afterEach(async () => {
  if (typeof disk !== 'string') await disk[Symbol.asyncDispose]()
})

const put = (db: Database, key: string, value: unknown = VALUE, sync = true) =>
  db.batch([{ type: 'put', key, value }], { sync })

async function codeOf(action: Promise<unknown>): Promise<string> {
  return action.then(
    () => 'done',
    (error) => errorBody(error).code,
  )
}

/** Keys that an agent started later finds. */
async function keysAfterStart(path: string): Promise<string[]> {
  const db = await openDatabase(path)
  const keys = await db.keys().all()
  await db.close()
  return keys
}

async function reserveMade(path: string): Promise<void> {
  while (!existsSync(join(path, 'reserve'))) await sleep(5)
}

/** A database whose reserve is gone, on a disk with too little left for a write. */
async function withoutReserve(disk: SmallDisk): Promise<Database> {
  const db = await openDatabase(disk.path)
  await reserveMade(disk.path)
  await put(db, 'before')
  await disk.fill()
  await put(db, 'by the reserve')
  await disk.fill()
  return db
}

test('LevelDB alone loses what it reports as written after a write that failed', async ({ skip }) => {
  if (typeof disk === 'string') return skip(disk)
  const path = join(disk.path, 'db')
  const alone = new Level<string, unknown>(path, { valueEncoding: 'json' })
  await put(alone, 'before')
  await disk.fill()
  for (let i = 0; (await codeOf(put(alone, `full-${i}`))) === 'done'; i++);
  await disk.free()
  for (let i = 0; i < 20; i++) await put(alone, `after-${i}`)
  await alone.close()
  const later = new Level<string, unknown>(path, { valueEncoding: 'json' })
  const keys = await later.keys().all()
  await later.close()
  expect(keys).toContain('before')
  expect(keys.filter((key) => key.startsWith('after-'))).toEqual([])
})

test('on a full disk the reserve holds what is synced, and nothing is lost', async ({ skip }) => {
  if (typeof disk === 'string') return skip(disk)
  const db = await openDatabase(disk.path)
  await reserveMade(disk.path)
  await put(db, 'before')
  await disk.fill()
  expect(await codeOf(put(db, 'not synced', VALUE, false))).toBe('DISK_FULL')
  const written = Array.from({ length: 100 }, (_, i) => `full-${i}`)
  for (const key of written) await put(db, key)
  expect(existsSync(join(disk.path, 'reserve'))).toBe(false)
  await db.close()
  expect((await keysAfterStart(disk.path)).toSorted()).toEqual(['before', ...written].toSorted())
})

test('without the reserve writes fail with a code, reads go on, and both go on when there is space', async ({
  skip,
}) => {
  if (typeof disk === 'string') return skip(disk)
  const db = await withoutReserve(disk)
  const members = db.sublevel<string, unknown>('members', { valueEncoding: 'json' })
  const codes: string[] = []
  for (let i = 0; i < 4; i++) codes.push(await codeOf(put(db, `full-${i}`)))
  expect(codes.at(-1)).toBe('DISK_FULL')
  // One that was there before, and that a failed write was to change.
  expect(await codeOf(put(db, 'before', 'changed'))).toBe('DISK_FULL')
  expect(await db.get('before')).toBe(VALUE)
  expect(await db.keys().all()).toContain('before')

  await disk.free()
  await Promise.all(Array.from({ length: 20 }, (_, i) => put(db, `after-${i}`)))
  await members.put('a', { name: 'a' })
  expect(await members.get('a')).toEqual({ name: 'a' })
  await db.close()
  const keys = await keysAfterStart(disk.path)
  expect(keys.filter((key) => key.startsWith('after-'))).toHaveLength(20)
  expect(keys).toContain('!members!a')
  const failed = codes.flatMap((code, i) => (code === 'done' ? [] : [`full-${i}`]))
  expect(keys.filter((key) => failed.includes(key))).toEqual([])
  const again = await openDatabase(disk.path)
  expect(await again.get('before')).toBe(VALUE)
  await again.close()
})

test('opens on a full disk by the reserve, and says DISK_FULL without', async ({ skip }) => {
  if (typeof disk === 'string') return skip(disk)
  const db = await openDatabase(disk.path)
  await reserveMade(disk.path)
  await put(db, 'before')
  await disk.fill()
  await db.close()
  const opened = await openDatabase(disk.path)
  expect(await opened.get('before')).toBe(VALUE)
  await disk.fill()
  await opened.close()
  expect(await codeOf(openDatabase(disk.path))).toBe('DISK_FULL')
  await disk.free()
  expect((await keysAfterStart(disk.path)).toSorted()).toEqual(['before'])
})

test('the reserve is made again when there is room for it', async ({ skip }) => {
  if (typeof disk === 'string') return skip(disk)
  await disk.fill({ leavingBytes: RESERVE_BYTES })
  const first = await openDatabase(disk.path)
  await first.close()
  expect(existsSync(join(disk.path, 'reserve'))).toBe(false)
  await disk.free()
  const second = await openDatabase(disk.path)
  await reserveMade(disk.path)
  await second.close()
})
