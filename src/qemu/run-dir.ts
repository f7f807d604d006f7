import { closeSync, constants, openSync, readFileSync, rmSync } from 'node:fs'
import { chmod, chown, type FileHandle, mkdir, open, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { QemuError } from './errors.ts'

/** `sun_path` of unix(7) holds 108 bytes, the terminating zero included. */
const MAX_SOCKET_PATH_BYTES = 107
/** What of the log goes into an error: QEMU says in one line why it gives up, warnings stand above it. */
const LOG_TAIL_BYTES = 4096
const LOG_TAIL_LINES = 8
/** From a broken socket to the line that says why. */
export const LAST_WORDS_TIMEOUT_MS = 300

/** The files of one QEMU's run directory. */
export interface RunPaths {
  /** Control: QmpClient. */
  qmp: string
  /** The guest's serial console. */
  console: string
  /** virtio-serial port of a guest agent. */
  agent: string
  /** QEMU reads an incoming migration here. */
  incoming: string
  /** QEMU writes its state here when a template is made. */
  outgoing: string
  /** Device state on its way from QEMU to the agent. */
  deviceState: string
  /** Standard output and error of QEMU. */
  log: string
}

/** @throws QemuError SOCKET_PATH_TOO_LONG */
export function runPaths(runDir: string): RunPaths {
  const paths: RunPaths = {
    qmp: join(runDir, 'qmp.sock'),
    console: join(runDir, 'console.sock'),
    agent: join(runDir, 'agent.sock'),
    incoming: join(runDir, 'incoming.sock'),
    outgoing: join(runDir, 'outgoing.sock'),
    deviceState: join(runDir, 'device-state'),
    log: join(runDir, 'qemu.log'),
  }
  const longestBytes = Buffer.byteLength(paths.outgoing)
  if (longestBytes > MAX_SOCKET_PATH_BYTES) {
    throw new QemuError(
      'SOCKET_PATH_TOO_LONG',
      `${paths.outgoing} has ${longestBytes} bytes, a unix socket's path may have ${MAX_SOCKET_PATH_BYTES}: ` +
        'choose a shorter run directory',
      { details: { runDir, bytes: longestBytes, maxBytes: MAX_SOCKET_PATH_BYTES } },
    )
  }
  return paths
}

/**
 * Makes the directory, or takes over one that an earlier run left. Only its
 * owner may enter: who reaches the control socket owns the guest.
 */
export async function prepareRunDir(
  runDir: string,
  owner: { uid: number; gid: number } | null,
): Promise<RunPaths> {
  const paths = runPaths(runDir)
  await mkdir(runDir, { recursive: true, mode: 0o700 })
  await chmod(runDir, 0o700)
  await Promise.all(Object.values(paths).map((path) => rm(path, { force: true })))
  if (owner !== null) await chown(runDir, owner.uid, owner.gid)
  return paths
}

const READ_FLAGS = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK

/**
 * Opens a file of a run directory. The directory may be another user's, and its
 * QEMU under the guest's control: no link leads the agent, who may read
 * everything, to another file, and no pipe keeps it waiting.
 */
async function openInRunDir(path: string): Promise<FileHandle> {
  return open(path, READ_FLAGS)
}

/** All of a file that QEMU wrote; with it the file goes. In the blackout: 0.1 ms, where the thread pool takes 0.5. */
export function takeFromRunDir(path: string): Buffer {
  const fd = openSync(path, READ_FLAGS)
  try {
    return readFileSync(fd)
  } finally {
    closeSync(fd)
    rmSync(path)
  }
}

/** The last lines that QEMU wrote; empty when it said nothing. */
export async function readLogTail(logPath: string): Promise<string[]> {
  try {
    await using log = await openInRunDir(logPath)
    const { size } = await log.stat()
    const length = Math.min(size, LOG_TAIL_BYTES)
    const { buffer } = await log.read({ buffer: Buffer.alloc(length), position: size - length })
    return buffer.toString().split('\n').filter(Boolean).slice(-LOG_TAIL_LINES)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
}
