import { type ChildProcess, spawn } from 'node:child_process'
import { on, once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { type GateState, OPEN_GATE, type RelayCommand, type Route } from './relay.ts'

type Unnumbered<Command> = Command extends unknown ? Omit<Command, 'id'> : never

const ANSWER_TIMEOUT_MS = 10_000

/** The links between the nodes, as the test commands them: see `relay.ts`. */
export class Links implements AsyncDisposable {
  readonly #child: ChildProcess
  #lastId = 0

  private constructor(child: ChildProcess) {
    this.#child = child
  }

  /** @param prefix - command that runs the relay in the network's hub */
  static async start(prefix: readonly string[], routes: readonly Route[]): Promise<Links> {
    const relay = fileURLToPath(new URL('relay.ts', import.meta.url))
    const [command, ...args] = [...prefix, process.execPath, relay, JSON.stringify(routes)]
    const child = spawn(command!, args, { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
    await once(child, 'message', { signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS) })
    return new Links(child)
  }

  /** Changes what happens to bytes from one node to another one; what isn't named is as in an intact link. */
  async set(from: string, to: string, state: Partial<GateState>): Promise<void> {
    await this.#ask({ kind: 'set', from, to, state: { ...OPEN_GATE, ...state } })
  }

  async setBoth(one: string, other: string, state: Partial<GateState>): Promise<void> {
    await this.set(one, other, state)
    await this.set(other, one, state)
  }

  /** Ends all connections between two nodes as a firewall does; new ones may be made. */
  async reset(one: string, other: string): Promise<void> {
    await this.#ask({ kind: 'reset', from: one, to: other })
  }

  async #ask(command: Unnumbered<RelayCommand>): Promise<void> {
    const id = ++this.#lastId
    const answers = on(this.#child, 'message', { signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS) })
    this.#child.send({ ...command, id })
    for await (const [answer] of answers) if (answer.id === id) return
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null) return
    const exited = once(this.#child, 'exit')
    this.#child.disconnect()
    await exited
  }
}
