import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { open } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { QemuError } from './errors.ts'
import { LAST_WORDS_TIMEOUT_MS, readLogTail } from './run-dir.ts'
import { asUser, type QemuUser } from './user.ts'

/**
 * What QEMU makes, sockets above all, has the mode 0600 from its first moment.
 * The shell sets that and becomes QEMU, under the same pid: `process.umask` of
 * the agent would for that time be the umask of its thread pool too.
 */
const BECOME_QEMU = 'umask 177; exec "$0" "$@"'
/** Exit codes of a shell that can't become a program (POSIX, Shell Command Language, 2.8.2). */
const COMMAND_NOT_EXECUTABLE = 126
const COMMAND_NOT_FOUND = 127

/**
 * Starts QEMU in a session of its own, so that it outlives the agent and its
 * terminal. Its words go to the log. One that isn't there or can't be executed
 * ends at once: see `exitError`.
 *
 * @param init.logPath - must not exist
 * @param init.user - whom it runs as, with its primary group alone; Node drops the privileges before QEMU begins, as
 *   its own -runas is killed by its own sandbox
 */
export async function spawnQemu(
  path: string,
  args: string[],
  { logPath, user }: { logPath: string; user: QemuUser | null },
): Promise<ChildProcess> {
  await using log = await open(logPath, 'wx', 0o600)
  const child = spawn('/bin/sh', ['-c', BECOME_QEMU, path, ...args], {
    detached: true,
    stdio: ['ignore', log.fd, log.fd],
    // Its directory is the root: one that can be unmounted or removed must not be held.
    ...asUser(user),
  })
  await once(child, 'spawn')
  child.unref()
  return child
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

/**
 * Why a QEMU ended that should not have.
 *
 * @returns QEMU_EXITED, QEMU_NOT_FOUND, QEMU_NOT_USABLE
 */
export async function exitError(child: ChildProcess, path: string, logPath: string): Promise<QemuError> {
  const log = await readLogTail(logPath)
  const { exitCode, signalCode } = child
  if (exitCode === COMMAND_NOT_FOUND || exitCode === COMMAND_NOT_EXECUTABLE) {
    const code = exitCode === COMMAND_NOT_FOUND ? 'QEMU_NOT_FOUND' : 'QEMU_NOT_USABLE'
    const reason = log.at(-1) ?? 'it said nothing'
    return new QemuError(code, `${path} can't be started: ${reason}`, { details: { path, reason } })
  }
  const ending = signalCode === null ? `status ${exitCode}` : `signal ${signalCode}`
  return new QemuError('QEMU_EXITED', `QEMU ended at once (${ending}): ${log.at(-1) ?? 'it said nothing'}`, {
    details: { log, exitCode, signal: signalCode },
  })
}
