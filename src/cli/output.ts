import { styleText } from 'node:util'
import type { DroverError } from '../domain/errors.ts'

type Style = 'green' | 'yellow' | 'red' | 'bold' | 'dim'

/** Where a command writes: data to stdout, everything else to stderr. */
export class Output {
  readonly json: boolean
  readonly #stdout: NodeJS.WriteStream
  readonly #stderr: NodeJS.WriteStream
  readonly #readerLeft = new AbortController()
  #progressShown = false

  constructor(streams: { stdout: NodeJS.WriteStream; stderr: NodeJS.WriteStream }, init: { json: boolean }) {
    this.#stdout = streams.stdout
    this.#stderr = streams.stderr
    this.json = init.json
    this.#stdout.once('error', () => this.#readerLeft.abort())
  }

  /** Aborted when nobody reads stdout any more (`drover events | head -1`). */
  get readerLeft(): AbortSignal {
    return this.#readerLeft.signal
  }

  /** A command's result: the document itself with --json, its rendering for people otherwise. */
  result<T>(document: T, render: (document: T) => string): void {
    this.#clearProgress()
    const text = this.json ? JSON.stringify(document) : render(document)
    if (text !== '') this.#stdout.write(`${text}\n`)
  }

  /** Something that people should know and no script reads. */
  note(text: string): void {
    this.#clearProgress()
    this.#stderr.write(`${text}\n`)
  }

  /** One line that replaces itself; nothing off a terminal. */
  progress(text: string): void {
    if (!this.#stderr.isTTY) return
    const line = text.slice(0, (this.#stderr.columns ?? 80) - 1)
    this.#stderr.write(`\r\x1b[K${line}`)
    this.#progressShown = true
  }

  /** With --json the document goes to stdout, where scripts read; the sentence goes to stderr always. */
  error(error: DroverError): void {
    this.#clearProgress()
    if (this.json) {
      const { code, message, details } = error
      this.#stdout.write(`${JSON.stringify({ error: { code, message, details } })}\n`)
    }
    this.#stderr.write(`${this.#styled('red', 'drover:', this.#stderr)} ${error.message} (${error.code})\n`)
  }

  /** Coloured where stdout is a terminal and NO_COLOR isn't set. */
  styled(style: Style, text: string): string {
    return this.#styled(style, text, this.#stdout)
  }

  #styled(style: Style, text: string, stream: NodeJS.WriteStream): string {
    return stream.isTTY ? styleText(style, text, { stream }) : text
  }

  #clearProgress(): void {
    if (this.#progressShown) this.#stderr.write('\r\x1b[K')
    this.#progressShown = false
  }
}
