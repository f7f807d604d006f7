import { createConnection, type Socket } from 'node:net'
import { stripVTControlCharacters } from 'node:util'

/** Enough for the last screens of a boot; a pattern may span this much. */
const MAX_KEPT_CHARS = 64 * 1024
/** What an error shows of it. */
const LAST_LINES = 12

/** Reads a guest's serial console and keeps its end. */
export class ConsoleWatch implements Disposable {
  readonly #socket: Socket
  #kept = ''
  #closed = false
  #wake = Promise.withResolvers<void>()

  private constructor(socket: Socket) {
    this.#socket = socket
    socket.setEncoding('utf8')
    socket.on('data', (text: string) => {
      this.#kept = (this.#kept + text.replaceAll('\r', '')).slice(-MAX_KEPT_CHARS)
      this.#wake.resolve()
    })
    socket.on('close', () => {
      this.#closed = true
      this.#wake.resolve()
    })
    // 'close' follows.
    socket.on('error', () => {})
  }

  /** Connect before the guest runs: QEMU drops what a guest says while nobody is connected. */
  static async connect(path: string): Promise<ConsoleWatch> {
    const socket = createConnection(path)
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve)
      socket.once('error', reject)
    })
    return new ConsoleWatch(socket)
  }

  /**
   * Resolves true once the pattern matches, false when the console closed first.
   *
   * @throws the signal's reason
   */
  async says(pattern: RegExp, signal: AbortSignal): Promise<boolean> {
    const wake = () => this.#wake.resolve()
    signal.addEventListener('abort', wake)
    try {
      for (;;) {
        signal.throwIfAborted()
        pattern.lastIndex = 0
        if (pattern.test(this.#kept)) return true
        if (this.#closed) return false
        await this.#wake.promise
        this.#wake = Promise.withResolvers<void>()
      }
    } finally {
      signal.removeEventListener('abort', wake)
    }
  }

  lastLines(): string[] {
    // The guest's own escape sequences have no place in somebody else's terminal.
    const printable = stripVTControlCharacters(this.#kept).replace(/[^\t\n\x20-\x7e]/g, '')
    return printable
      .split('\n')
      .filter((line) => line.trim() !== '')
      .slice(-LAST_LINES)
  }

  [Symbol.dispose](): void {
    this.#socket.destroy()
  }
}
