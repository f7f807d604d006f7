/**
 * The serial console of the test guest (scripts/guest-image), driven one command at a time.
 *
 * The guest's shell reads raw lines, echoes nothing and prints no prompt. A command travels as the line
 *
 *     echo "<""ID"; sh -c 'COMMAND' 2>&1; echo ">""ID" $?
 *
 * and answers `<ID`, its output, `>ID STATUS`. The marks are split in what is sent, so that even a terminal
 * that echoes can't be taken for an answer. What was in the buffer before `<ID` is dropped.
 *
 * QEMU's socket serves one client at a time: a second one connects, and waits until the first has closed.
 */
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createConnection, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'

/** Under TCG on a busy machine even `true` may take a second, and a hash of 100 MiB ten. */
const DEFAULT_TIMEOUT_MS = 60_000
/** How often a socket that QEMU has not made yet is tried again. */
const CONNECT_RETRY_MS = 20
/** What is kept of a console that nobody reads; a whole boot with all kernel messages is 30 KB. */
const MAX_BUFFER_CHARS = 4 * 1024 * 1024
/** A terminal's line buffer in the guest holds 4095 bytes; the marks need some of them. */
const MAX_COMMAND_BYTES = 3500
/** Ends what runs in the guest's foreground; its shell starts again, and says so. */
const CTRL_C = '\x03'
const SHELL_READY = /drover-guest ready\n/
const INTERRUPT_TIMEOUT_MS = 5_000

export interface ConsoleWait {
  timeoutMs?: number
  signal?: AbortSignal
}

/** A command in the guest ended with a status other than 0. */
export class GuestCommandError extends Error {
  readonly code = 'ERR_GUEST_COMMAND'
  readonly status: number
  readonly output: string

  constructor(command: string, status: number, output: string) {
    super(`guest command ended with status ${status}: ${command}\n${output}`)
    this.status = status
    this.output = output
  }
}

/** The console closed, or did not say in time what was waited for; `received` is what it said instead. */
export class GuestConsoleError extends Error {
  readonly code: 'ERR_CONSOLE_TIMEOUT' | 'ERR_CONSOLE_CLOSED'
  readonly received: string

  constructor(code: GuestConsoleError['code'], what: string, received: string) {
    super(`${what}; the console's last words: ${JSON.stringify(received.slice(-500))}`)
    this.code = code
    this.received = received
  }
}

export class GuestConsole {
  readonly #socket: Socket
  /** Received and not yet consumed, carriage returns removed. */
  #received = ''
  #closed = false
  #wake = Promise.withResolvers<void>()
  /** Commands follow each other: their answers share one line. */
  #turn: Promise<unknown> = Promise.resolve()

  private constructor(socket: Socket) {
    this.#socket = socket
    socket.setEncoding('utf8')
    socket.on('data', (text: string) => {
      this.#received = (this.#received + text.replaceAll('\r', '')).slice(-MAX_BUFFER_CHARS)
      this.#notify()
    })
    socket.on('close', () => {
      this.#closed = true
      this.#notify()
    })
    // 'close' follows, and whoever waits learns from it.
    socket.on('error', () => {})
  }

  /** Connects as soon as QEMU listens at `path`. */
  static async connect(
    path: string,
    { timeoutMs = DEFAULT_TIMEOUT_MS, signal }: ConsoleWait = {},
  ): Promise<GuestConsole> {
    const deadlineMs = performance.now() + timeoutMs
    for (;;) {
      signal?.throwIfAborted()
      const socket = createConnection(path)
      try {
        await once(socket, 'connect', signal === undefined ? {} : { signal })
        return new GuestConsole(socket)
      } catch (error) {
        socket.destroy()
        const { code } = error as NodeJS.ErrnoException
        const notYet = code === 'ENOENT' || code === 'ECONNREFUSED' || code === 'EAGAIN'
        if (!notYet || performance.now() > deadlineMs) throw error
      }
      await delay(CONNECT_RETRY_MS, undefined, signal === undefined ? {} : { signal })
    }
  }

  /**
   * Runs `command` with `sh -c` and an empty standard input; returns its output (both streams) without the last newline.
   * After a time-out or an abort, Ctrl-C ends the command in the guest, so that the next one is heard.
   *
   * @throws GuestCommandError when its exit status is not 0
   * @throws GuestConsoleError when the console closes or the time is over
   */
  run(command: string, wait: ConsoleWait = {}): Promise<string> {
    const result = this.#turn.then(() => this.#run(command, wait))
    this.#turn = result.catch(() => {})
    return result
  }

  /** Waits until the console says what `pattern` matches; consumes everything up to its end. */
  async waitFor(
    pattern: RegExp,
    { timeoutMs = DEFAULT_TIMEOUT_MS, signal }: ConsoleWait = {},
  ): Promise<RegExpExecArray> {
    const timeout = AbortSignal.timeout(timeoutMs)
    const either = signal === undefined ? timeout : AbortSignal.any([signal, timeout])
    const abort = () => this.#notify()
    either.addEventListener('abort', abort)
    try {
      for (;;) {
        pattern.lastIndex = 0
        const match = pattern.exec(this.#received)
        if (match !== null) {
          this.#received = this.#received.slice(match.index + match[0].length)
          return match
        }
        signal?.throwIfAborted()
        if (timeout.aborted) {
          throw new GuestConsoleError(
            'ERR_CONSOLE_TIMEOUT',
            `no ${pattern} within ${timeoutMs} ms`,
            this.#received,
          )
        }
        if (this.#closed)
          throw new GuestConsoleError('ERR_CONSOLE_CLOSED', `closed before ${pattern}`, this.#received)
        await this.#wake.promise
      }
    } finally {
      either.removeEventListener('abort', abort)
    }
  }

  /** What was received and not consumed yet. */
  get received(): string {
    return this.#received
  }

  async close(): Promise<void> {
    if (this.#closed) return
    const closed = once(this.#socket, 'close')
    this.#socket.destroy()
    await closed
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #run(command: string, { timeoutMs = DEFAULT_TIMEOUT_MS, signal }: ConsoleWait): Promise<string> {
    signal?.throwIfAborted()
    const quoted = `'${command.replaceAll("'", `'\\''`)}'`
    if (command.includes('\n') || Buffer.byteLength(quoted) > MAX_COMMAND_BYTES) {
      throw new RangeError(`a guest command is one line of at most ${MAX_COMMAND_BYTES} bytes`)
    }
    const id = randomBytes(6).toString('hex')
    const wait: ConsoleWait = signal === undefined ? { timeoutMs } : { timeoutMs, signal }
    try {
      this.#socket.write(`echo "<""${id}"; sh -c ${quoted} 2>&1; echo ">""${id}" $?\n`)
      // Output that lacks its last newline stands before the closing mark on the same line.
      const match = await this.waitFor(new RegExp(`<${id}\\n([^]*?)\\n?>${id} (\\d+)\\n`), wait)
      const [, output = '', status = ''] = match
      if (status !== '0') throw new GuestCommandError(command, Number(status), output)
      return output
    } catch (error) {
      if (!(error instanceof GuestCommandError) && !this.#closed) await this.#interrupt()
      throw error
    }
  }

  /** The guest's terminal drops its input at a Ctrl-C: the next command must wait for the new shell. */
  async #interrupt(): Promise<void> {
    this.#received = ''
    this.#socket.write(CTRL_C)
    try {
      await this.waitFor(SHELL_READY, { timeoutMs: INTERRUPT_TIMEOUT_MS })
    } catch (error) {
      // A guest that is paused or gone can't answer; the caller gets the error that led here.
      if (!(error instanceof GuestConsoleError)) throw error
    }
  }

  #notify(): void {
    const { resolve } = this.#wake
    this.#wake = Promise.withResolvers<void>()
    resolve()
  }
}
