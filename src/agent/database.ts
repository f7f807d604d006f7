import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { Level } from 'level'
import { AgentError } from './errors.ts'

/**
 * Opens the agent's one database, which also is the lock of its data directory.
 *
 * @throws AgentError AGENT_ALREADY_RUNNING, DATA_DIR_UNUSABLE
 */
export async function openDatabase(dataDir: string): Promise<Level<string, unknown>> {
  try {
    await mkdir(dataDir, { recursive: true, mode: 0o700 })
    const db = new Level<string, unknown>(join(dataDir, 'db'), { valueEncoding: 'json' })
    await db.open()
    return db
  } catch (cause) {
    if (((cause as Error).cause as NodeJS.ErrnoException | undefined)?.code === 'LEVEL_LOCKED') {
      throw new AgentError(
        'AGENT_ALREADY_RUNNING',
        `another agent has ${dataDir} open: stop it, or give this one its own --data-dir and --socket`,
        { cause, details: { dataDir } },
      )
    }
    const reason = ((cause as Error).cause as Error | undefined)?.message ?? (cause as Error).message
    throw new AgentError('DATA_DIR_UNUSABLE', `can't use the data directory ${dataDir}: ${reason}`, {
      cause,
      details: { dataDir },
    })
  }
}
