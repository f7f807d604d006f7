import { setInterval } from 'node:timers/promises'
import { Tasks } from './tasks.ts'

/** How often it is looked at who is due. */
const TICK_MS = 250
const MAX_PARALLEL_DIALS = 16

const FIRST_RETRY_MS = 1000
const MAX_RETRY_MS = 60_000

/** Somebody whom only others know gets so many tries, some two minutes. */
const MAX_HINT_ATTEMPTS = 8
const MAX_HINTS = 256

/** Of nodes that are no members, as a full book takes none: 16 is more than a node's VMs go to. */
export const MAX_WARM = 16

interface Target {
  /** A member. */
  kept: boolean
  /** No member, and still to be connected. */
  warm: boolean
  failures: number
  dueAtMs: number
  dialling: boolean
}

/**
 * Keeps connections to members up, so that a move never has to dial: whoever
 * isn't connected is dialled again, after 1 s, 2 s, ... 60 s, for as long as
 * it is a member. (libp2p's reconnect queue gives up after a few tries, and
 * then takes the KEEP_ALIVE tag away.)
 */
export class Redialer {
  readonly #connect: (peerId: string, signal: AbortSignal) => Promise<unknown>
  readonly #isConnected: (peerId: string) => boolean
  readonly #onForget: (peerId: string) => void
  readonly #targets = new Map<string, Target>()
  readonly #loop = new Tasks()
  readonly #dials = new Tasks()

  /** @param components.onForget - a hint came to nothing */
  constructor(components: {
    connect: (peerId: string, signal: AbortSignal) => Promise<unknown>
    isConnected: (peerId: string) => boolean
    onForget: (peerId: string) => void
  }) {
    this.#connect = components.connect
    this.#isConnected = components.isConnected
    this.#onForget = components.onForget
  }

  /** A member: tried for as long as this runs. */
  keep(peerId: string): void {
    this.#target(peerId).kept = true
  }

  /**
   * Nodes to be connected to whether they are members or not, instead of those named before.
   *
   * @param peerIds - the first MAX_WARM that are no members count
   */
  keepWarm(peerIds: readonly string[]): void {
    const others = peerIds.filter((peerId) => this.#targets.get(peerId)?.kept !== true)
    const warm = new Set(others.slice(0, MAX_WARM))
    for (const [peerId, target] of this.#targets) {
      if (!target.warm || warm.has(peerId)) continue
      target.warm = false
      if (!target.kept) this.#targets.delete(peerId)
    }
    for (const peerId of warm) this.#target(peerId).warm = true
  }

  /**
   * Somebody who is said to be there.
   *
   * @param waitMs - before the first try
   * @returns false when there are too many already
   */
  hint(peerId: string, waitMs: number): boolean {
    if (this.#targets.has(peerId)) return true
    if (this.#hints >= MAX_HINTS) return false
    this.#target(peerId).dueAtMs = performance.now() + waitMs
    return true
  }

  /** Not dialled any more, whatever it was. */
  forget(peerId: string): void {
    this.#targets.delete(peerId)
  }

  /** The connection was lost: both ends notice, so not both at the very same moment. */
  lost(peerId: string): void {
    const target = this.#targets.get(peerId)
    if (target !== undefined) target.dueAtMs = performance.now() + Math.random() * FIRST_RETRY_MS
  }

  start(): void {
    this.#loop.run(
      async (signal) => {
        for await (const _ of setInterval(TICK_MS, undefined, { signal, ref: false })) this.#dialDue()
      },
      // Ends only at its signal.
      () => undefined,
    )
    this.#dialDue()
  }

  async stop(reason: Error): Promise<void> {
    await Promise.all([this.#loop.stop(reason), this.#dials.stop(reason)])
  }

  get #hints(): number {
    return this.#targets.values().reduce((hints, { kept, warm }) => hints + (kept || warm ? 0 : 1), 0)
  }

  #target(peerId: string): Target {
    const target = this.#targets.get(peerId) ?? {
      kept: false,
      warm: false,
      failures: 0,
      dueAtMs: 0,
      dialling: false,
    }
    this.#targets.set(peerId, target)
    return target
  }

  #dialDue(): void {
    const nowMs = performance.now()
    for (const [peerId, target] of this.#targets) {
      if (this.#dials.count >= MAX_PARALLEL_DIALS) return
      if (target.dialling || target.dueAtMs > nowMs || this.#isConnected(peerId)) continue
      target.dialling = true
      this.#dials.run(
        async (signal) => {
          try {
            await this.#connect(peerId, signal)
            target.failures = 0
          } finally {
            target.dialling = false
          }
        },
        () => this.#failed(peerId, target),
      )
    }
  }

  #failed(peerId: string, target: Target): void {
    target.failures++
    const waitMs = Math.min(FIRST_RETRY_MS * 2 ** (target.failures - 1), MAX_RETRY_MS)
    target.dueAtMs = performance.now() + waitMs * (0.5 + Math.random() / 2)
    if (target.kept || target.warm || target.failures < MAX_HINT_ATTEMPTS) return
    this.#targets.delete(peerId)
    this.#onForget(peerId)
  }
}
