import type { EventReply } from '../../src/agent/api-schema.ts'
import { AgentClient } from '../../src/cli/client.ts'
import type { AgentUnderTest } from './drover.ts'

/** What happens on a node, read from its agent as it happens. */
export class EventLog implements AsyncDisposable {
  /** In order, from the first that the agent remembers. */
  readonly events: EventReply[] = []
  readonly #ended = new AbortController()
  readonly #reading: Promise<void>

  constructor(agent: AgentUnderTest) {
    const client = new AgentClient({ socket: agent.socket, signal: this.#ended.signal })
    // Ends with the agent, or with the log.
    this.#reading = this.#read(client).catch(() => {})
  }

  /** Those of one kind. */
  of(kind: string): EventReply[] {
    return this.events.filter((event) => event.kind === kind)
  }

  /** Kinds with one beginning, in the order in which they happened. */
  kinds(prefix: string): string[] {
    return this.events.map(({ kind }) => kind).filter((kind) => kind.startsWith(prefix))
  }

  async #read(client: AgentClient): Promise<void> {
    for await (const event of client.lines<EventReply>('GET', '/events?recent=1')) this.events.push(event)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended.abort()
    await this.#reading
  }
}
