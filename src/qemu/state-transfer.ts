import { once } from 'node:events'
import { type FileHandle, lchown, open, rm, stat } from 'node:fs/promises'
import { createConnection, createServer, type Server, type Socket } from 'node:net'
import { dirname } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { bounded } from './bounded.ts'
import { QemuError } from './errors.ts'
import type { QmpClient } from './qmp.ts'
import type { MigrationCapability, QmpEvent } from './qmp-commands.ts'
import { isAtLeast } from './version.ts'

/** QEMU listens within a millisecond; it connects as fast. */
const CONNECT_TIMEOUT_MS = 5000
/** First version whose incoming side can fail without ending QEMU. */
const EXIT_ON_ERROR_SINCE = [9, 1] as const

interface StateTransfer {
  socketPath: string
  filePath: string
  timeoutMs: number
  signal?: AbortSignal | undefined
}

/** Whether a MIGRATION event is the last one of its migration. */
export const isMigrationEnd = ({ data }: QmpEvent): boolean =>
  data.status === 'completed' || data.status === 'failed' || data.status === 'cancelled'

/** Sets the capabilities that this room uses; all others keep their default: off. */
export async function setCapabilities(
  qmp: QmpClient,
  capabilities: Partial<Record<MigrationCapability, boolean>>,
  signal?: AbortSignal | undefined,
): Promise<void> {
  const list = Object.entries(capabilities).map(([capability, state]) => ({
    capability: capability as MigrationCapability,
    state,
  }))
  await qmp.execute('migrate-set-capabilities', { capabilities: list }, { signal })
}

/**
 * Lets QEMU listen for a migration and connects. The name of the socket is
 * gone afterwards: nobody else can connect.
 */
export async function connectIncoming(
  qmp: QmpClient,
  socketPath: string,
  signal?: AbortSignal | undefined,
): Promise<Socket> {
  const { major, minor } = qmp.version
  const canFailAlive = isAtLeast([major, minor], EXIT_ON_ERROR_SINCE)
  await qmp.execute(
    'migrate-incoming',
    { uri: `unix:${socketPath}`, ...(canFailAlive ? { 'exit-on-error': false } : {}) },
    { signal },
  )
  const socket = createConnection(socketPath)
  try {
    await bounded(once(socket, 'connect'), {
      timeoutMs: CONNECT_TIMEOUT_MS,
      signal,
      timedOut: () => noConnection(socketPath),
    })
  } catch (error) {
    socket.destroy()
    throw error
  }
  await rm(socketPath, { force: true })
  return socket
}

/** Waits until QEMU's migration, either way, has ended since `after`. */
export async function migrationEnd(
  qmp: QmpClient,
  { after, timeoutMs, signal }: { after: number; timeoutMs: number; signal?: AbortSignal | undefined },
): Promise<'completed' | 'failed' | 'cancelled'> {
  const { data } = await qmp.waitForEvent('MIGRATION', isMigrationEnd, { after, timeoutMs, signal })
  return data.status as 'completed' | 'failed' | 'cancelled'
}

/**
 * Writes the state of a stopped VM, without the RAM that is a shared file.
 * QEMU may not start programs and knows `file:` only since 8.2: it connects to
 * a socket of ours. Whatever fails, no file is left.
 */
export async function saveState(
  qmp: QmpClient,
  { socketPath, filePath, timeoutMs, signal }: StateTransfer,
): Promise<void> {
  const file = await open(filePath, 'w', 0o600)
  const ended = new AbortController()
  const either = signal === undefined ? ended.signal : AbortSignal.any([signal, ended.signal])
  let server: Server | null = null
  try {
    server = await listenForQemu(socketPath)
    const [sending, receiving] = [
      sendState(qmp, `unix:${socketPath}`, { timeoutMs, signal: either }),
      receiveInto(file, server, either),
    ]
    try {
      await Promise.all([sending, receiving])
    } catch (error) {
      ended.abort(error)
      await Promise.allSettled([sending, receiving, qmp.execute('migrate_cancel', undefined, { timeoutMs })])
      throw error
    }
  } catch (error) {
    await rm(filePath, { force: true })
    signal?.throwIfAborted()
    throw error
  } finally {
    server?.close()
    await file.close()
    await rm(socketPath, { force: true })
  }
}

/** A socket that QEMU can connect to, whomever it runs as. Whoever closes the server removes the path. */
export async function listenForQemu(socketPath: string): Promise<Server> {
  // One agent serves a VM: what is there was left by one that was killed before QEMU had connected.
  await rm(socketPath, { force: true })
  const server = createServer()
  server.listen(socketPath)
  await once(server, 'listening')
  // Not chmod, which would follow a link that QEMU put there.
  const { uid, gid } = await stat(dirname(socketPath))
  if (uid !== process.geteuid?.()) await lchown(socketPath, uid, gid)
  return server
}

async function sendState(
  qmp: QmpClient,
  uri: string,
  { timeoutMs, signal }: { timeoutMs: number; signal: AbortSignal },
): Promise<void> {
  await setCapabilities(
    qmp,
    { events: true, 'x-ignore-shared': true, 'pause-before-switchover': false },
    signal,
  )
  const after = qmp.eventCount
  await qmp.execute('migrate', { uri }, { signal })
  const status = await migrationEnd(qmp, { after, timeoutMs, signal })
  if (status !== 'completed') {
    const { 'error-desc': reason = status } = await qmp.execute('query-migrate', undefined, { signal })
    throw new QemuError('QEMU_STATE_NOT_SAVED', `QEMU did not save its state: ${reason}`, {
      details: { reason },
    })
  }
  await setCapabilities(qmp, { 'x-ignore-shared': false }, signal)
}

async function receiveInto(file: FileHandle, server: Server, signal: AbortSignal): Promise<void> {
  const [socket] = (await once(server, 'connection', { signal })) as [Socket]
  // The stream closes the file once all is written.
  await pipeline(socket, file.createWriteStream(), { signal })
}

/**
 * Loads a state that `saveState` wrote into a QEMU that was started for it.
 * Whether it arrived is QEMU's to say: it closes the socket as soon as it has
 * read enough, which to the writer may look like a failure.
 */
export async function loadState(
  qmp: QmpClient,
  { socketPath, filePath, timeoutMs, signal }: StateTransfer,
): Promise<void> {
  await using file = await open(filePath)
  await setCapabilities(qmp, { events: true, 'x-ignore-shared': true }, signal)
  const after = qmp.eventCount
  const socket = await connectIncoming(qmp, socketPath, signal)
  const sending = pipeline(file.createReadStream(), socket).then(
    () => null,
    (error: unknown) => error,
  )
  try {
    const status = await migrationEnd(qmp, { after, timeoutMs, signal })
    if (status !== 'completed') {
      socket.destroy()
      const cause = await sending
      throw new QemuError('INCOMING_FAILED', `loading the template's state ${status}`, { cause })
    }
  } finally {
    socket.destroy()
    await sending
  }
  await setCapabilities(qmp, { 'x-ignore-shared': false }, signal)
}

function noConnection(socketPath: string): QemuError {
  return new QemuError('QMP_TIMEOUT', `QEMU does not listen at ${socketPath}`, { details: { socketPath } })
}
