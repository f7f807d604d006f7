import { type ProbeTarget, targetKey } from '../../wire/probe-messages.ts'
import { isHost } from './addresses.ts'
import { probeRttMs } from './round-trip.ts'

/**
 * Whoever asks for the same in that time gets the same: several VMs of several
 * nodes have one client. Below the time between two rounds, so that no round
 * sees what the one before saw.
 */
export const REUSE_MS = 1_500

/** ms; null: not measured. */
export type ProbeRtt = (target: ProbeTarget, signal: AbortSignal) => Promise<number | null>

export interface ProberInit {
  /** Default `probeRttMs`. */
  probe?: ProbeRtt
  /** Any clock, in ms. */
  now?: () => number
}

interface Probe {
  startedAtMs: number
  rttMs: Promise<number | null>
}

/** The probes of one node, its own and those for others. Limits are the callers'. */
export class Prober {
  readonly #probe: ProbeRtt
  readonly #now: () => number
  /** By target, oldest first. */
  readonly #recent = new Map<string, Probe>()
  readonly #stopping = new AbortController()

  constructor({ probe = probeRttMs, now = () => performance.now() }: ProberInit = {}) {
    this.#probe = probe
    this.#now = now
  }

  /** Whether it costs nothing: it is being measured, or was less than REUSE_MS ago. */
  isRecent(target: ProbeTarget): boolean {
    this.#forgetOld()
    return this.#recent.has(targetKey(target))
  }

  /** ms; null: not measured, also after `stop`. Takes PROBE_TIMEOUT_MS at most. */
  measure(target: ProbeTarget): Promise<number | null> {
    if (!isHost(target.address) || this.#stopping.signal.aborted) return Promise.resolve(null)
    this.#forgetOld()
    const key = targetKey(target)
    const probe = this.#recent.get(key) ?? {
      startedAtMs: this.#now(),
      rttMs: this.#probe(target, this.#stopping.signal),
    }
    this.#recent.set(key, probe)
    return probe.rttMs
  }

  /** Ends those under way. */
  stop(): void {
    this.#stopping.abort(new Error('the node stops'))
  }

  #forgetOld(): void {
    for (const [key, { startedAtMs }] of this.#recent) {
      if (startedAtMs + REUSE_MS > this.#now()) return
      this.#recent.delete(key)
    }
  }
}
