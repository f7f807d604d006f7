import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import type { ClientSettings, PollAnswer } from './client.ts'

/** A client that polls, see `client.ts`, and what it was answered. */
export class PollingClient implements AsyncDisposable {
  readonly #child: ChildProcess
  /** In the order in which they came. */
  readonly answers: PollAnswer[] = []

  private constructor(child: ChildProcess) {
    this.#child = child.on('message', (answer) => {
      this.answers.push(answer as PollAnswer)
    })
  }

  /** @param prefix - command that runs it on its host */
  static start(prefix: readonly string[], settings: ClientSettings): PollingClient {
    const path = fileURLToPath(new URL('client.ts', import.meta.url))
    const [command, ...args] = [...prefix, process.execPath, path, JSON.stringify(settings)]
    return new PollingClient(spawn(command!, args, { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] }))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null) return
    const exited = once(this.#child, 'exit')
    this.#child.disconnect()
    await exited
  }
}
