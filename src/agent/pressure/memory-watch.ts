import { steadyNowMs } from '../../domain/clock.ts'
import { errorBody } from '../../domain/errors.ts'
import { Repeating } from '../../domain/repeating.ts'
import type { VmId, VmRecord } from '../../domain/vm.ts'
import { afterFailure, type BackOffs, backOffRemainingMs } from '../../placement/index.ts'
import type { VmService } from '../../vm/index.ts'
import type { EventHub } from '../event-hub.ts'
import type { Relocations } from '../relocation/relocate.ts'
import {
  CALM,
  chooseToMove,
  type MemorySample,
  type Movable,
  nextPressure,
  type Pressure,
} from './pressure.ts'

/** A guest on two cores that writes new memory all the time takes some 2 GB in it. */
const SAMPLE_MS = 2_000

export interface MemoryWatchComponents {
  vms: VmService
  relocations: Relocations
  /** Sees what guests have for themselves now. Never rejects. */
  lookAtMemory: () => Promise<void>
  events: EventHub
  sample: () => MemorySample
  /** VMs aren't moved by themselves: they are drained, or a person has said so. */
  isPaused: () => boolean
  /** From 0 to below 1. */
  random?: () => number
}

/**
 * Moves VMs away before the kernel has to kill one: those with `auto`, one at a
 * time, for as long as the node is short of memory. Of all others people are told.
 */
export class MemoryWatch {
  readonly #components: MemoryWatchComponents
  readonly #sampleMs: number
  readonly #watching = new Repeating()
  #pressure: Pressure = CALM
  #backOffs: BackOffs = new Map()
  /** Of this time of pressure: that nothing can be moved is told once. */
  #hasToldOfNone = false
  #relieving: Promise<void> | null = null

  constructor(components: MemoryWatchComponents, { sampleMs = SAMPLE_MS }: { sampleMs?: number } = {}) {
    this.#components = components
    this.#sampleMs = sampleMs
  }

  start(): void {
    this.#watching.start(
      () => this.#sampleMs,
      async () => this.#look(),
    )
  }

  async stop(): Promise<void> {
    await Promise.all([this.#watching.stop(), this.#relieving])
  }

  #look(): void {
    const { vms, events, sample, isPaused } = this.#components
    const measured = sample()
    const before = this.#pressure
    this.#pressure = nextPressure(before, measured)
    if (this.#pressure.kind === 'calm') {
      if (before.kind === 'pressed') events.publish({ kind: 'memory-relieved', ...measured })
      return
    }
    if (before.kind === 'calm') {
      this.#hasToldOfNone = false
      const { cause } = this.#pressure
      events.publish({ kind: 'memory-pressure', cause, ...measured, vms: this.#namesByMemory() })
    }
    // QEMUs that nobody is in go first; what that frees, the next look shows.
    if (vms.giveUpPrepared()) return
    // Clear for now: what was done may have been enough.
    if (this.#pressure.clearSamples > 0 || isPaused() || this.#relieving !== null) return
    this.#relieving = this.#relieve().finally(() => {
      this.#relieving = null
    })
  }

  /** Moves one VM. Never rejects. */
  async #relieve(): Promise<void> {
    const { vms, relocations, events } = this.#components
    const chosen = await this.#choose()
    if (chosen === null) {
      if (!this.#hasToldOfNone)
        events.publish({ kind: 'memory-pressure-not-relieved', vms: this.#namesByMemory() })
      this.#hasToldOfNone = true
      return
    }
    const { id, ownBytes, sendBytes } = chosen
    const { name } = vms.get(id).spec
    events.publish({ kind: 'memory-pressure-moves', vm: name, ownBytes, sendBytes })
    const { signal } = this.#watching
    const outcome = await relocations.relocate(id, { onProgress: () => {}, signal })
    if (outcome.kind === 'moved') {
      const { to, node } = outcome
      events.publish({ kind: 'memory-pressure-moved', vm: name, to, node })
      return
    }
    this.#backOffs = afterFailure(this.#backOffs, [id], steadyNowMs(), this.#components.random ?? Math.random)
    const { code, message } = errorBody(outcome.error)
    events.publish({ kind: 'memory-pressure-move-failed', vm: name, code, message })
  }

  /** Who grew until memory was short has more to send than was known, and no room where it seemed to have. */
  async #choose(): Promise<Movable | null> {
    if (chooseToMove(this.#movable()) === null) return null
    await this.#components.lookAtMemory()
    return chooseToMove(this.#movable())
  }

  /** VMs with `auto` that some node has room for, as far as is known, and whose last move didn't just fail. */
  #movable(): Movable[] {
    const { vms, relocations } = this.#components
    const nowMs = steadyNowMs()
    return this.#running().flatMap(({ spec: { id, auto } }) => {
      if (!auto || backOffRemainingMs(this.#backOffs, id, nowMs) > 0) return []
      const best = destinationsOf(relocations, id).find(({ hasRoom }) => hasRoom)
      return best === undefined ? [] : [{ id, ownBytes: vms.ownMemoryBytes(id), sendBytes: best.sendBytes }]
    })
  }

  #running(): VmRecord[] {
    return this.#components.vms.list().filter(({ state }) => state.kind === 'running')
  }

  /** Who takes it: those with the most memory of their own first. */
  #namesByMemory(): { name: string; ownBytes: number; auto: boolean }[] {
    return this.#running()
      .map(({ spec: { id, name, auto } }) => ({
        name,
        ownBytes: this.#components.vms.ownMemoryBytes(id),
        auto,
      }))
      .toSorted((a, b) => b.ownBytes - a.ownBytes)
  }
}

/** None for a VM that can't be moved at all. */
function destinationsOf(relocations: Relocations, id: VmId): ReturnType<Relocations['destinations']> {
  try {
    return relocations.destinations(id)
  } catch {
    return []
  }
}
