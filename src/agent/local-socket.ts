import { once } from 'node:events'
import { chmod, mkdir, rm } from 'node:fs/promises'
import { createConnection } from 'node:net'
import { dirname } from 'node:path'
import { AgentError } from './errors.ts'

/**
 * Makes a path ready to be listened on: its directory exists (0700 where we
 * make it), no living agent answers there, and what a dead one left is gone.
 *
 * @throws AgentError AGENT_ALREADY_RUNNING, DATA_DIR_UNUSABLE
 */
export async function claimSocket(path: string): Promise<void> {
  try {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 })
  } catch (cause) {
    throw new AgentError('DATA_DIR_UNUSABLE', `can't make ${dirname(path)}: ${(cause as Error).message}`, {
      cause,
    })
  }
  if (await answers(path)) {
    throw new AgentError(
      'AGENT_ALREADY_RUNNING',
      `another agent answers on ${path}: stop it, or give this one its own --socket and --data-dir`,
      { details: { socket: path } },
    )
  }
  await rm(path, { force: true })
}

/**
 * Only the agent's user may speak to it. That holds before this too: the
 * process's umask (run-agent.ts) lets nobody else at what it makes, from the
 * moment that it is there; here its mode gets what it should be.
 */
export async function restrictSocket(path: string): Promise<void> {
  await chmod(path, 0o600)
}

/** Whether something accepts connections on a unix socket. */
export async function answers(path: string): Promise<boolean> {
  const socket = createConnection(path)
  try {
    await once(socket, 'connect')
    return true
  } catch {
    return false
  } finally {
    socket.destroy()
  }
}
