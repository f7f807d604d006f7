import { join } from 'node:path'
import { setInterval } from 'node:timers/promises'
import type { FaultAgent } from './fault-agent.ts'
import { GuestLine } from './guest-line.ts'
import { Timeline } from './timeline.ts'

/** A QEMU stands for longer before its guest may run. */
const LOOK_MS = 25

/**
 * Listens to every QEMU of every node from its start to its end, whether its
 * agent lives or not, and keeps the timeline of each guest.
 */
export class GuestWatch implements AsyncDisposable {
  readonly #agents: readonly FaultAgent[]
  readonly #lines = new Map<string, GuestLine>()
  readonly #opening = new Set<string>()
  readonly #timelines = new Map<string, Timeline>()
  /** Where each guest spoke last. */
  readonly #spoke = new Map<string, string>()
  readonly #ended = new AbortController()
  readonly #looking: Promise<void>

  constructor(agents: readonly FaultAgent[]) {
    this.#agents = agents
    this.#looking = this.#look()
  }

  timeline(vm: string): Timeline {
    const timeline = this.#timelines.get(vm) ?? new Timeline()
    this.#timelines.set(vm, timeline)
    return timeline
  }

  /** Another guest gets the name. */
  forget(vm: string): void {
    this.#timelines.delete(vm)
  }

  /** The console of a QEMU; waits for it. */
  async line(consoleSocket: string, signal: AbortSignal): Promise<GuestLine> {
    for await (const _ of setInterval(LOOK_MS, null, { signal })) {
      const line = this.#lines.get(consoleSocket)
      if (line !== undefined) return line
    }
    throw new Error('unreachable')
  }

  /** The console that the guest spoke on last, whether its agent answers or not; null before the first beat. */
  lineOf(vm: string): GuestLine | null {
    return this.#lines.get(this.#spoke.get(vm) ?? '') ?? null
  }

  async #look(): Promise<void> {
    try {
      for await (const _ of setInterval(LOOK_MS, null, { signal: this.#ended.signal, ref: false })) {
        for (const agent of this.#agents) void this.#lookAt(agent)
      }
    } catch {
      // Ends only at its signal.
    }
  }

  async #lookAt(agent: FaultAgent): Promise<void> {
    for (const name of await agent.runDirs()) {
      const path = join(agent.dir, 'run', 'vms', name, 'console.sock')
      if (this.#opening.has(path) || this.#lines.get(path)?.isClosed === false) continue
      this.#lines.delete(path)
      this.#opening.add(path)
      const onBeat = (vm: string, count: number): void => {
        this.#spoke.set(vm, path)
        this.timeline(vm).add({ from: `${agent.name}/${name}`, count, atMs: Date.now() })
      }
      void GuestLine.open(path, onBeat)
        .then(
          (line) => void this.#lines.set(path, line),
          () => {},
        )
        .finally(() => this.#opening.delete(path))
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended.abort()
    await this.#looking
    for (const line of this.#lines.values()) line.close()
  }
}
