import type { IncomingMessage } from 'node:http'
import type { ApiError, StreamLine } from '../agent/api-schema.ts'
import { CliError, RemoteError } from './errors.ts'

/** The longest that an answer without progress may take: an ACPI power-down has 30 s, a slow start less. */
const ANSWER_TIMEOUT_MS = 120_000

type Method = 'GET' | 'POST' | 'DELETE'

/** Speaks to the agent on its unix socket: see `agent/api-schema.ts`. */
export class AgentClient {
  readonly #socket: string
  readonly #signal: AbortSignal

  /** @param init.signal - ends every request, unless one is given its own */
  constructor(init: { socket: string; signal: AbortSignal }) {
    this.#socket = init.socket
    this.#signal = init.signal
  }

  /** @throws RemoteError; CliError AGENT_UNREACHABLE, AGENT_NOT_PERMITTED, AGENT_GONE, AGENT_TIMEOUT */
  async request<T>(method: Method, path: string, body?: unknown, signal = this.#signal): Promise<T> {
    const timeout = AbortSignal.timeout(ANSWER_TIMEOUT_MS)
    const either = AbortSignal.any([signal, timeout])
    try {
      const response = await this.#send(method, path, body, either)
      return JSON.parse(await this.#text(response, either)) as T
    } catch (error) {
      if (!timeout.aborted || signal.aborted) throw error
      throw new CliError(
        'AGENT_TIMEOUT',
        `the agent took more than ${ANSWER_TIMEOUT_MS / 1000} s for ${method} ${path}`,
      )
    }
  }

  /** The lines of an NDJSON reply. Leaving the loop closes the connection. */
  async *lines<T>(method: Method, path: string, body?: unknown, signal = this.#signal): AsyncGenerator<T> {
    const response = await this.#send(method, path, body, signal)
    let rest = ''
    response.setEncoding('utf8')
    try {
      for await (const text of response) {
        const lines = (rest + text).split('\n')
        rest = lines.pop()!
        for (const line of lines) yield JSON.parse(line) as T
      }
    } catch (cause) {
      throw this.#connectionError(cause, signal)
    }
  }

  /** Runs a long operation to its result. */
  async operation<Progress, Result>(
    request: { method: Method; path: string; body?: unknown; signal?: AbortSignal },
    onProgress: (progress: Progress) => void,
  ): Promise<Result> {
    const { method, path, body, signal } = request
    for await (const line of this.lines<StreamLine<Progress, Result>>(method, path, body, signal)) {
      if ('progress' in line) onProgress(line.progress)
      else if ('result' in line) return line.result
      else throw remoteError(line.error)
    }
    throw new CliError('AGENT_GONE', 'the agent went away before the operation ended')
  }

  async #send(method: Method, path: string, body: unknown, signal: AbortSignal): Promise<IncomingMessage> {
    // Help and usage errors need no HTTP, and it takes 20 ms to load.
    const { request: httpRequest } = await import('node:http')
    const payload = body === undefined ? undefined : JSON.stringify(body)
    const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>()
    const headers =
      payload === undefined
        ? {}
        : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(payload) }
    const request = httpRequest({ socketPath: this.#socket, method, path, headers, signal }, resolve)
    request.once('error', reject)
    request.end(payload)
    let response: IncomingMessage
    try {
      response = await promise
    } catch (cause) {
      throw this.#connectionError(cause, signal)
    }
    if (response.statusCode! < 400) return response
    throw remoteError((JSON.parse(await this.#text(response, signal)) as { error: ApiError }).error)
  }

  async #text(response: IncomingMessage, signal: AbortSignal): Promise<string> {
    try {
      return (await response.setEncoding('utf8').toArray()).join('')
    } catch (cause) {
      throw this.#connectionError(cause, signal)
    }
  }

  #connectionError(cause: unknown, signal: AbortSignal): unknown {
    // Node tells of a response that we end ourselves as of one that the agent reset.
    if (signal.aborted) return signal.reason
    const { code } = cause as NodeJS.ErrnoException
    const details = { socket: this.#socket }
    if (code === 'ENOENT' || code === 'ECONNREFUSED') {
      const message = `no agent answers on ${this.#socket}: start it with \`drover agent\`, or point --socket at its socket`
      return new CliError('AGENT_UNREACHABLE', message, { cause, details })
    }
    if (code === 'EACCES' || code === 'EPERM') {
      const message = `no permission to use ${this.#socket}: run as the user that runs the agent`
      return new CliError('AGENT_NOT_PERMITTED', message, { cause, details })
    }
    if (code === 'ECONNRESET' || code === 'EPIPE') {
      const message = `the agent on ${this.#socket} went away before it had answered`
      return new CliError('AGENT_GONE', message, { cause, details })
    }
    return cause
  }
}

/** A path of the API with what people typed in it. */
export function apiPath(strings: TemplateStringsArray, ...names: string[]): string {
  return String.raw({ raw: strings }, ...names.map(encodeURIComponent))
}

function remoteError({ code, outcome, message, details }: ApiError): RemoteError {
  return new RemoteError(code, outcome, message, { details })
}
