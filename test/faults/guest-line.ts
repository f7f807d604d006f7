import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createConnection, type Socket } from 'node:net'

const COMMAND_TIMEOUT_MS = 60_000

/** What a guest says by itself: `BEAT NAME COUNT`, COUNT from 1 on. */
const BEAT = /^BEAT (\S+) (\d+)$/
/** Between two of them. */
const BEAT_S = 0.05

/** The script that says them; its count is guest memory, and moves with the guest. */
const BEAT_SCRIPT =
  `n=0; mkfifo /run/beats; exec 3<>/run/beats; while :; do n=$((n+1)); echo "BEAT $1 $n" > /dev/ttyS0; ` +
  `read -t ${BEAT_S} _ <&3; done`

interface Command {
  id: string
  lines: string[] | null
  resolve: (output: string) => void
  reject: (error: Error) => void
}

/**
 * The serial console of one QEMU for as long as that lives: hears its guest's
 * beats, and runs commands between them. The guest's shell is the one that
 * `test/support/guest-console.ts` describes.
 */
export class GuestLine {
  readonly #socket: Socket
  readonly #onBeat: (vm: string, count: number) => void
  #rest = ''
  #command: Command | null = null
  #turn: Promise<unknown> = Promise.resolve()
  #closed = false

  private constructor(socket: Socket, onBeat: (vm: string, count: number) => void) {
    this.#socket = socket
    this.#onBeat = onBeat
    socket.setEncoding('utf8').on('data', (text: string) => this.#read(text))
    // 'close' follows.
    socket.on('error', () => {})
    socket.on('close', () => {
      this.#closed = true
      this.#command?.reject(new Error('the console closed'))
    })
  }

  /** @throws when nobody listens there */
  static async open(path: string, onBeat: (vm: string, count: number) => void): Promise<GuestLine> {
    const socket = createConnection(path)
    await once(socket, 'connect')
    return new GuestLine(socket, onBeat)
  }

  get isClosed(): boolean {
    return this.#closed
  }

  close(): void {
    this.#socket.destroy()
  }

  /** Lets the guest beat from now on. */
  async startBeating(vm: string): Promise<void> {
    const script = BEAT_SCRIPT.replaceAll("'", `'\\''`)
    await this.run(`echo '${script}' > /run/beat; setsid sh /run/beat ${vm} < /dev/null > /dev/null 2>&1 &`)
  }

  /**
   * @returns what the command said
   * @throws when its status is not 0, or it takes too long, as in a guest that stands still
   */
  run(command: string, { timeoutMs = COMMAND_TIMEOUT_MS } = {}): Promise<string> {
    const result = this.#turn.then(() => this.#run(command, timeoutMs))
    this.#turn = result.catch(() => {})
    return result
  }

  async #run(command: string, timeoutMs: number): Promise<string> {
    if (this.#closed) throw new Error('the console is closed')
    const id = randomBytes(6).toString('hex')
    const { promise, resolve, reject } = Promise.withResolvers<string>()
    const timer = setTimeout(() => reject(new Error(`no answer from the guest to: ${command}`)), timeoutMs)
    this.#command = { id, lines: null, resolve, reject }
    const quoted = `'${command.replaceAll("'", `'\\''`)}'`
    this.#socket.write(`echo "<""${id}"; sh -c ${quoted} 2>&1; echo ">""${id}" $?\n`)
    try {
      return await promise
    } finally {
      clearTimeout(timer)
      this.#command = null
    }
  }

  #read(text: string): void {
    const lines = (this.#rest + text.replaceAll('\r', '')).split('\n')
    this.#rest = lines.pop()!
    for (const line of lines) this.#readLine(line)
  }

  #readLine(line: string): void {
    const [, vm, count] = BEAT.exec(line) ?? []
    const command = this.#command
    if (vm !== undefined) this.#onBeat(vm, Number(count))
    if (vm !== undefined || command === null) return
    if (line === `<${command.id}`) command.lines = []
    else if (line.startsWith(`>${command.id} `)) {
      const output = (command.lines ?? []).join('\n')
      if (line.endsWith(' 0')) command.resolve(output)
      else command.reject(new Error(`a guest command failed: ${line} ${output}`))
    } else command.lines?.push(line)
  }
}
