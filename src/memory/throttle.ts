import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Freeze } from './freeze.ts'

/** Short beside what a guest's network connections wait, long beside the millisecond that timers may be late. */
export const THROTTLE_PERIOD_MS = 100
/** However long a late timer let the guest run: what waits for it shouldn't take it for dead. */
const MAX_FROZEN_MS = 150
/** Sends SIGCONT to a process when its standard input ends: that is when the agent ended, however it did. */
const GUARD_SCRIPT = 'cat > /dev/null; kill -CONT "$1"'

/**
 * Slows a guest down by freezing its process for a share of each period. Stock
 * QEMU can do so only inside of its own migration. While a throttle is on, a
 * small process of its own lets the guest go on should the agent be killed.
 */
export class Throttle implements AsyncDisposable {
  readonly #freeze: Freeze
  #percent = 0
  #running: { guard: ChildProcess; end: AbortController; cycle: Promise<void> } | null = null

  constructor(freeze: Freeze) {
    this.#freeze = freeze
  }

  /** Share of the time that the guest stands still for now: 0 to 99. */
  get percent(): number {
    return this.#percent
  }

  /** @param percent - 1 to 99; from the next period on when one is under way */
  async set(percent: number): Promise<void> {
    this.#percent = percent
    if (this.#running !== null) return
    const guard = await startGuard(this.#freeze.pid)
    const end = new AbortController()
    // Without its guard a guest isn't frozen: better one that writes fast than one that may stand for ever.
    guard.once('exit', () => end.abort())
    this.#running = { guard, end, cycle: this.#cycle(end.signal) }
  }

  /** The guest runs at full speed when this resolves. */
  async stop(): Promise<void> {
    const running = this.#running
    this.#running = null
    this.#percent = 0
    if (running === null) return
    running.end.abort()
    await running.cycle
    stopGuard(running.guard)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
  }

  async #cycle(signal: AbortSignal): Promise<void> {
    try {
      let ranMs = 0
      while (!signal.aborted) {
        const share = this.#percent / 100
        const shareMs = THROTTLE_PERIOD_MS * share
        // Each half from what the other really took: timers of a busy event loop are late.
        const owedMs = (ranMs * share) / (1 - share)
        const frozenMs = await this.#freezeFor(Math.min(Math.max(owedMs, shareMs), MAX_FROZEN_MS), signal)
        const startedMs = performance.now()
        const runMs = (THROTTLE_PERIOD_MS - shareMs) * Math.max(1, frozenMs / MAX_FROZEN_MS)
        await sleep(runMs, undefined, { signal })
        ranMs = performance.now() - startedMs
      }
    } catch {
      // Stopped, or the process is gone: it needs no throttle, and its end is noticed elsewhere.
    }
  }

  async #freezeFor(ms: number, signal: AbortSignal): Promise<number> {
    const startedMs = performance.now()
    using _held = this.#freeze.hold()
    await sleep(ms, undefined, { signal })
    return performance.now() - startedMs
  }
}

async function startGuard(pid: number): Promise<ChildProcess> {
  // Its own group: what ends the agent's group must not end the guard before the agent.
  const guard = spawn('sh', ['-c', GUARD_SCRIPT, 'sh', String(pid)], {
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
  })
  await once(guard, 'spawn')
  return guard
}

/** Killed, not asked: its SIGCONT could end the freeze of a scan. Not waited for: the guest is about to be stopped. */
function stopGuard(guard: ChildProcess): void {
  if (guard.exitCode === null && guard.signalCode === null) process.kill(-guard.pid!, 'SIGKILL')
}
