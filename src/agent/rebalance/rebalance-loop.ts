import { steadyNowMs } from '../../domain/clock.ts'
import { DroverError, errorBody } from '../../domain/errors.ts'
import type { MigrationReport } from '../../domain/migration.ts'
import { Repeating } from '../../domain/repeating.ts'
import type { PeerIdText, VmRecord } from '../../domain/vm.ts'
import { type ConsideredMove, pairOf, planRound, type VmSituation } from '../../placement/index.ts'
import type { Hypervisor } from '../parts.ts'
import type { MachineNeeds } from '../relocation/candidates.ts'
import type { Relocations } from '../relocation/relocate.ts'
import type { Surroundings } from '../relocation/surroundings.ts'
import type { RebalanceLedger } from './rebalance-ledger.ts'
import type { RebalanceMemory } from './rebalance-memory.ts'

/** Samples come every three seconds while something changes: a look between two of them costs some 10 µs. */
const LOOK_INTERVAL_MS = 1_000
/** Nodes that started together don't look together. */
const JITTER_SHARE = 0.2

/** Codes that say nothing of other VMs there, and nothing of this one elsewhere. */
const OF_THE_PAIR: ReadonlySet<string> = new Set([
  'NAME_TAKEN',
  'PORT_TAKEN',
  'MAC_TAKEN',
  'BLACKOUT_TOO_LONG',
])

export interface RebalanceLoopComponents extends Pick<Hypervisor, 'vms' | 'migrations'> {
  surroundings: Surroundings
  relocations: Pick<Relocations, 'move'>
  ledger: RebalanceLedger
  memory: RebalanceMemory
  isDraining: () => boolean
  /** Of this node, as it announces it. */
  load: () => number
}

export interface RebalanceLoopInit {
  peerId: PeerIdText
  lookIntervalMs?: number
  /** From 0 to below 1. */
  random?: () => number
}

/**
 * Moves VMs of this node to where their clients are nearest: looks each second
 * at what is known (placement/plan.ts), and makes at most one move at a time.
 * What it remembers (moves of the last hour, failures) is this node's;
 * cool-downs are in the VMs' records and go where they go.
 */
export class RebalanceLoop {
  readonly #components: RebalanceLoopComponents
  readonly #peerId: PeerIdText
  readonly #lookIntervalMs: number
  readonly #random: () => number
  readonly #looking = new Repeating()
  #moving: Promise<void> | null = null

  constructor(
    components: RebalanceLoopComponents,
    { peerId, lookIntervalMs = LOOK_INTERVAL_MS, random = Math.random }: RebalanceLoopInit,
  ) {
    this.#components = components
    this.#peerId = peerId
    this.#lookIntervalMs = lookIntervalMs
    this.#random = random
  }

  start(): void {
    this.#looking.start(
      () => this.#lookIntervalMs * (1 + JITTER_SHARE * this.#random()),
      (signal) => this.#step(signal),
    )
  }

  /** A move under way is cancelled where that is still possible, and waited for. */
  async stop(): Promise<void> {
    await this.#looking.stop()
    await this.#moving
  }

  async #step(signal: AbortSignal): Promise<void> {
    const { vms, surroundings } = this.#components
    await surroundings.lookAtMemory(vms.list())
    if (!signal.aborted) this.#look()
  }

  #look(): void {
    const { ledger, memory, migrations, isDraining, vms } = this.#components
    const { situations, machines } = this.#situations(vms.list())
    const nowMs = steadyNowMs()
    const own = {
      peerId: this.#peerId,
      nowMs,
      load: this.#components.load(),
      movesOut: migrations.leaving,
      startedAtMs: memory.startedAtMs(nowMs),
      backOffs: memory.backOffs,
    }
    const candidates = new Map(
      this.#components.surroundings.candidates(machines).map((node) => [node.peerId, node]),
    )
    const { considered, chosen } = planRound({ own, vms: situations, candidates }, this.#random)
    ledger.looked(considered, {
      vms: situations.filter(({ mode }) => mode === 'auto').length,
      atMs: Math.round(nowMs),
    })
    if (chosen === null || ledger.isPaused || isDraining() || this.#moving !== null) return
    this.#moving = this.#move(chosen, memory.started(nowMs)).finally(() => {
      this.#moving = null
    })
  }

  /** A VM whose template is damaged is left out: it couldn't be moved either. */
  #situations(records: readonly VmRecord[]): { situations: VmSituation[]; machines: MachineNeeds[] } {
    const { surroundings } = this.#components
    const seen = records.flatMap((record) => {
      try {
        return [{ situation: surroundings.vm(record), machine: surroundings.machine(record) }]
      } catch (error) {
        if (error instanceof DroverError) return []
        throw error
      }
    })
    return {
      situations: seen.map(({ situation }) => situation),
      machines: seen.map(({ machine }) => machine),
    }
  }

  /** Never rejects. Not a moment passes before the move has begun: what spoke for it could be otherwise then. */
  async #move(chosen: ConsideredMove, noted: Promise<void>): Promise<void> {
    const { ledger, memory, relocations } = this.#components
    const { vmId, to, sum } = chosen
    const destination = { ...to!, memoryBytes: sum!.cost.memoryBytes }
    ledger.decided(chosen)
    try {
      const report = await relocations.move(vmId, destination, {
        automatic: true,
        onProgress: () => {},
        signal: this.#looking.signal,
      })
      await this.#ended(chosen, report)
    } catch (error) {
      // Nothing was begun: its user was quicker, say.
      ledger.ended(chosen, errorBody(error))
      await memory.failed([vmId], steadyNowMs(), this.#random)
    }
    await noted
  }

  async #ended(chosen: ConsideredMove, { outcome, error }: MigrationReport): Promise<void> {
    const { ledger, memory } = this.#components
    const { vmId } = chosen
    const { peerId } = chosen.to!
    const pair = pairOf(vmId, peerId)
    if (outcome === 'completed') {
      ledger.ended(chosen, null)
      return memory.succeeded([vmId, peerId, pair])
    }
    const { code, message } = error ?? { code: 'INTERNAL', message: `the move ended ${outcome}` }
    ledger.ended(chosen, { code, message })
    // That the agent stopped says nothing of either, and the next one goes by what is kept.
    if (this.#looking.signal.aborted) return
    // Who cancels wants the VM to stay, and has nothing against the node.
    const unlessOfThePair = outcome === 'cancelled' ? [vmId] : [vmId, peerId]
    const whose = OF_THE_PAIR.has(code) ? [pair] : unlessOfThePair
    await memory.failed(whose, steadyNowMs(), this.#random)
  }
}
