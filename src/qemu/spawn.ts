import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { open } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { QemuError } from './errors.ts'
import { LAST_WORDS_TIMEOUT_MS, readLogTail } from './run-dir.ts'

const execute = promisify(execFile)

export interface Owner {
  uid: number
  gid: number
}

/**
 * Starts QEMU in a session of its own, so that it outlives the agent and its
 * terminal. Its words go to the log.
 *
 * @param owner - whom it runs as; Node drops the privileges before QEMU begins,
 *   as its own -runas is killed by its own sandbox
 * @throws QemuError QEMU_NOT_FOUND, QEMU_NOT_USABLE
 */
export async function spawnQemu(
  path: string,
  args: string[],
  { logPath, owner }: { logPath: string; owner: Owner | null },
): Promise<ChildProcess> {
  await using log = await open(logPath, 'w', 0o600)
  const child = spawn(path, args, {
    detached: true,
    stdio: ['ignore', log.fd, log.fd],
    // A directory that can be unmounted or removed must not be held.
    cwd: '/',
    ...(owner ?? {}),
  })
  try {
    await once(child, 'spawn')
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    throw new QemuError(
      code === 'ENOENT' ? 'QEMU_NOT_FOUND' : 'QEMU_NOT_USABLE',
      code === 'ENOENT' ? `no QEMU at ${path}` : `${path} can't be started: ${code}`,
      { cause, details: { path } },
    )
  }
  child.unref()
  return child
}

/**
 * Ids of a user, by the system's own look-up.
 *
 * @throws QemuError LAUNCH_INVALID
 */
export async function findUser(name: string): Promise<Owner> {
  try {
    const [uid, gid] = await Promise.all([
      execute('id', ['-u', '--', name]),
      execute('id', ['-g', '--', name]),
    ])
    return { uid: Number(uid.stdout), gid: Number(gid.stdout) }
  } catch (cause) {
    throw new QemuError('LAUNCH_INVALID', `no user ${name} to run QEMU as`, { cause, details: { name } })
  }
}

/** Resolves when the child is gone. */
export async function waitForExit(child: ChildProcess): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
}

/** Whether a start failed because QEMU ends: it may have closed its sockets and still be on its way out. */
export async function endsBySelf(cause: unknown, exited: Promise<void>): Promise<boolean> {
  const isClosing = cause instanceof QemuError && cause.code === 'QMP_CLOSED'
  const ended = exited.then(() => true)
  const timeoutMs = isClosing ? LAST_WORDS_TIMEOUT_MS : 0
  return Promise.race([ended, sleep(timeoutMs, false)])
}

/** Why a QEMU ended that should not have. */
export async function exitError(child: ChildProcess, logPath: string): Promise<QemuError> {
  const log = await readLogTail(logPath)
  const { exitCode, signalCode } = child
  const ending = signalCode === null ? `status ${exitCode}` : `signal ${signalCode}`
  return new QemuError('QEMU_EXITED', `QEMU ended at once (${ending}): ${log.at(-1) ?? 'it said nothing'}`, {
    details: { log, exitCode, signal: signalCode },
  })
}
