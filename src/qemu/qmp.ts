import { createConnection, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { bounded, type Wait } from './bounded.ts'
import { QemuError } from './errors.ts'
import type { QemuVersion, QmpCommand, QmpCommands, QmpEvent } from './qmp-commands.ts'

/** Commands that QEMU's main loop answers at once; those that wait for something say so. */
const DEFAULT_TIMEOUT_MS = 10_000
/** The longest answer in use, a list of RAM blocks, is a few KB. What is longer isn't QEMU. */
const MAX_LINE_CHARS = 4 * 1024 * 1024
/** Events kept for a wait that begins after them; a migration makes four, a reboot two. */
const MAX_RECENT_EVENTS = 64

interface EventWait {
  name: string
  predicate: (event: QmpEvent) => boolean
  resolve: (event: QmpEvent) => void
  reject: (error: Error) => void
}

/**
 * QEMU's control socket: one JSON document per line, both ways
 * (docs/interop/qmp-spec in QEMU's sources).
 *
 *     <- {"QMP": {"version": ..., "capabilities": ["oob"]}}
 *     -> {"execute": "qmp_capabilities", "id": 1}
 *     <- {"return": {}, "id": 1}
 *     -> {"execute": "stop", "id": 2}
 *     <- {"event": "STOP", "timestamp": ...}        at any time
 *     <- {"return": {}, "id": 2}
 *
 * QEMU serves one client at a time; a second one is accepted by the kernel and
 * gets no greeting until the first has gone. A client that was closed stays
 * closed: whoever still needs the VM connects a new one.
 */
export class QmpClient {
  readonly #socket: Socket
  readonly #replies = new Map<number, PromiseWithResolvers<unknown>>()
  readonly #waits = new Set<EventWait>()
  readonly #listeners = new Set<(event: QmpEvent) => void>()
  readonly #greeting = Promise.withResolvers<QemuVersion>()
  readonly #closed = Promise.withResolvers<void>()
  #recent: QmpEvent[] = []
  #eventCount = 0
  #lastId = 0
  #received = ''
  #closeError: QemuError | null = null
  #version: QemuVersion = { major: 0, minor: 0, micro: 0 }

  private constructor(socket: Socket) {
    this.#socket = socket
    this.#greeting.promise.catch(() => {})
    socket.setEncoding('utf8')
    socket.on('data', (text: string) => this.#read(text))
    socket.on('error', (cause) =>
      this.#close(new QemuError('QMP_CLOSED', `QMP: ${cause.message}`, { cause })),
    )
    socket.on('close', () => {
      this.#close(new QemuError('QMP_CLOSED', 'QEMU closed its control socket'))
      this.#closed.resolve()
    })
  }

  /**
   * Connects and negotiates.
   *
   * @throws QemuError QMP_CLOSED when nothing listens, QMP_TIMEOUT when QEMU doesn't
   *   greet: it hangs or is stopped, or another client is connected
   */
  static async connect(
    path: string,
    { timeoutMs = DEFAULT_TIMEOUT_MS, signal }: Wait = {},
  ): Promise<QmpClient> {
    const socket = createConnection(path)
    const client = new QmpClient(socket)
    try {
      client.#version = await bounded(client.#greeting.promise, {
        timeoutMs,
        signal,
        timedOut: () => new QemuError('QMP_TIMEOUT', `no greeting from ${path} within ${timeoutMs} ms`),
      })
      await client.#send('qmp_capabilities', undefined, { timeoutMs, signal })
      return client
    } catch (error) {
      await client.close()
      throw error
    }
  }

  /** Of the QEMU at the other end, from its greeting. */
  get version(): QemuVersion {
    return this.#version
  }

  /** Resolves when the connection has ended, whoever ended it. */
  get closed(): Promise<void> {
    return this.#closed.promise
  }

  /**
   * Runs one command.
   *
   * @throws QemuError QMP_ERROR (details: command, class, desc), QMP_TIMEOUT, QMP_CLOSED
   */
  execute<Name extends QmpCommand>(
    command: Name,
    args?: QmpCommands[Name]['arguments'],
    wait: Wait = {},
  ): Promise<QmpCommands[Name]['returns']> {
    return this.#send(command, args, wait)
  }

  /** Events received so far: taken before a command, it makes `waitForEvent` see what the command set off. */
  get eventCount(): number {
    return this.#eventCount
  }

  /**
   * Waits for an event that `predicate` accepts.
   *
   * @param wait.after - an earlier `eventCount`: events since then count too, as far as the last 64 go
   * @throws QemuError QMP_TIMEOUT, QMP_CLOSED
   */
  async waitForEvent(
    name: string,
    predicate: (event: QmpEvent) => boolean,
    { timeoutMs = DEFAULT_TIMEOUT_MS, signal, after = this.#eventCount }: Wait & { after?: number } = {},
  ): Promise<QmpEvent> {
    signal?.throwIfAborted()
    const missed = this.#eventCount - after
    const past = missed > 0 ? this.#recent.slice(-missed) : []
    const found = past.find((event) => event.event === name && predicate(event))
    if (found !== undefined) return found
    if (this.#closeError !== null) throw this.#closeError

    const { promise, resolve, reject } = Promise.withResolvers<QmpEvent>()
    const wait: EventWait = { name, predicate, resolve, reject }
    this.#waits.add(wait)
    try {
      return await bounded(promise, {
        timeoutMs,
        signal,
        timedOut: () =>
          new QemuError('QMP_TIMEOUT', `no ${name} event within ${timeoutMs} ms`, { details: { name } }),
      })
    } finally {
      this.#waits.delete(wait)
    }
  }

  /** Hears every event from now on, until the result is disposed. */
  listen(listener: (event: QmpEvent) => void): Disposable {
    this.#listeners.add(listener)
    const heard = new DisposableStack()
    heard.defer(() => this.#listeners.delete(listener))
    return heard
  }

  /** Ends the connection; QEMU and the guest go on. */
  async close(): Promise<void> {
    this.#socket.destroy()
    await this.#closed.promise
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  /** Lets the process end although the connection is open. */
  unref(): void {
    this.#socket.unref()
  }

  async #send(command: string, args: Record<string, unknown> | undefined, wait: Wait): Promise<unknown> {
    const { timeoutMs = DEFAULT_TIMEOUT_MS, signal } = wait
    signal?.throwIfAborted()
    if (this.#closeError !== null) throw this.#closeError
    const id = ++this.#lastId
    const reply = Promise.withResolvers<unknown>()
    this.#replies.set(id, reply)
    this.#socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`)
    try {
      return await bounded(reply.promise, {
        timeoutMs,
        signal,
        timedOut: () =>
          new QemuError('QMP_TIMEOUT', `QEMU did not answer ${command} within ${timeoutMs} ms`, {
            details: { command, timeoutMs },
          }),
      })
    } catch (error) {
      if (error instanceof QemuError && error.code === 'QMP_ERROR') {
        throw new QemuError('QMP_ERROR', `QEMU refused ${command}: ${error.message}`, {
          details: { command, ...error.details },
        })
      }
      throw error
    } finally {
      this.#replies.delete(id)
    }
  }

  #read(text: string): void {
    this.#received += text
    let start = 0
    for (let end = this.#received.indexOf('\n'); end >= 0; end = this.#received.indexOf('\n', start)) {
      this.#readLine(this.#received.slice(start, end))
      start = end + 1
    }
    this.#received = this.#received.slice(start)
    if (this.#received.length > MAX_LINE_CHARS) {
      this.#close(new QemuError('QMP_CLOSED', `a QMP line of more than ${MAX_LINE_CHARS} characters`))
    }
  }

  #readLine(line: string): void {
    let message: Record<string, unknown>
    try {
      message = JSON.parse(line)
    } catch (cause) {
      this.#close(new QemuError('QMP_CLOSED', 'QEMU sent something that is not JSON', { cause }))
      return
    }
    if (typeof message.event === 'string') {
      const { event, data = {}, timestamp } = message as Partial<QmpEvent> & { event: string }
      this.#readEvent({
        event,
        data,
        timestamp: timestamp ?? { seconds: Date.now() / 1000, microseconds: 0 },
      })
    } else if ('QMP' in message) {
      this.#greeting.resolve((message.QMP as { version: { qemu: QemuVersion } }).version.qemu)
    } else {
      this.#readReply(message)
    }
  }

  #readEvent(event: QmpEvent): void {
    this.#eventCount++
    this.#recent.push(event)
    if (this.#recent.length > MAX_RECENT_EVENTS) this.#recent.shift()
    for (const wait of this.#waits) {
      if (wait.name === event.event && wait.predicate(event)) wait.resolve(event)
    }
    for (const listener of this.#listeners) listener(event)
  }

  #readReply(message: Record<string, unknown>): void {
    // A reply without a waiter came after its time-out.
    const reply = this.#replies.get(Number(message.id))
    if (reply === undefined) return
    if ('error' in message) {
      const error = message.error as { class: string; desc: string }
      reply.reject(
        new QemuError('QMP_ERROR', error.desc, { details: { class: error.class, desc: error.desc } }),
      )
    } else {
      reply.resolve(message.return)
    }
  }

  #close(error: QemuError): void {
    if (this.#closeError !== null) return
    this.#closeError = error
    this.#socket.destroy()
    this.#greeting.reject(error)
    for (const reply of this.#replies.values()) reply.reject(error)
    for (const wait of this.#waits) wait.reject(error)
  }
}

/**
 * Connects as soon as QEMU listens: its socket appears some 20 ms after it was started.
 *
 * @param signal - aborts too when the process has ended
 */
export async function connectQmpWhenListening(
  path: string,
  { timeoutMs, signal, retryMs }: { timeoutMs: number; signal: AbortSignal; retryMs: number },
): Promise<QmpClient> {
  const deadlineMs = performance.now() + timeoutMs
  for (;;) {
    signal.throwIfAborted()
    try {
      return await QmpClient.connect(path, { timeoutMs: Math.max(1, deadlineMs - performance.now()), signal })
    } catch (error) {
      const errno =
        error instanceof QemuError ? (error.cause as NodeJS.ErrnoException | undefined)?.code : undefined
      const notYet = errno === 'ENOENT' || errno === 'ECONNREFUSED'
      if (!notYet || performance.now() > deadlineMs) throw error
    }
    await sleep(retryMs, undefined, { signal })
  }
}
