import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Level } from 'level'
import { onTestFinished } from 'vitest'

/** An agent's database, open and empty, until the test ends. */
export async function temporaryDatabase(): Promise<Level<string, unknown>> {
  const dir = await mkdtemp(join(tmpdir(), 'drover-db-'))
  const db = new Level<string, unknown>(dir, { valueEncoding: 'json' })
  onTestFinished(async () => {
    await db.close()
    await rm(dir, { recursive: true })
  })
  return db
}
