import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { Level } from 'level'
import { DiskFullError } from '../domain/errors.ts'
import { AgentDatabase, isOutOfSpace } from './agent-database.ts'
import { DiskReserve } from './disk-reserve.ts'
import { AgentError } from './errors.ts'

/** As its holders know it. */
export type Database = Level<string, unknown>

/**
 * Opens the agent's one database, which also is the lock of its data directory.
 * On a full disk it takes the reserve that an earlier start has left there.
 *
 * @throws AgentError AGENT_ALREADY_RUNNING, DATA_DIR_UNUSABLE; DiskFullError
 */
export async function openDatabase(dataDir: string): Promise<Database> {
  const reserve = new DiskReserve({ dir: dataDir, path: join(dataDir, 'reserve') })
  try {
    await mkdir(dataDir, { recursive: true, mode: 0o700 })
    const db = new AgentDatabase({ reserve }, { path: join(dataDir, 'db') })
    await db.open().catch(async (error: Error) => {
      if (!isOutOfSpace(error.cause ?? error)) throw error
      await reserve.release()
      await db.open()
    })
    reserve.keep()
    return db as unknown as Database
  } catch (error) {
    await reserve.stop()
    const cause = (error as Error).cause ?? error
    if ((cause as NodeJS.ErrnoException).code === 'LEVEL_LOCKED') {
      throw new AgentError(
        'AGENT_ALREADY_RUNNING',
        `another agent has ${dataDir} open: stop it, or give this one its own --data-dir and --socket`,
        { cause: error, details: { dataDir } },
      )
    }
    if (isOutOfSpace(cause)) throw new DiskFullError(dataDir, { cause: error })
    const reason = (cause as Error).message
    throw new AgentError('DATA_DIR_UNUSABLE', `can't use the data directory ${dataDir}: ${reason}`, {
      cause: error,
      details: { dataDir },
    })
  }
}
