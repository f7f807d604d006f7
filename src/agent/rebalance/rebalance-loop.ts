import { DroverError, errorBody } from '../../domain/errors.ts'
import type { MigrationReport } from '../../domain/migration.ts'
import { Repeating } from '../../domain/repeating.ts'
import type { PeerIdText, VmRecord } from '../../domain/vm.ts'
import { meshNowMs } from '../../mesh/index.ts'
import {
  afterFailure,
  afterSuccess,
  type BackOffs,
  BUDGET_MS,
  type ConsideredMove,
  planRound,
  type VmSituation,
} from '../../placement/index.ts'
import type { Hypervisor } from '../parts.ts'
import type { MachineNeeds } from '../relocation/candidates.ts'
import type { Relocations } from '../relocation/relocate.ts'
import type { Surroundings } from '../relocation/surroundings.ts'
import type { RebalanceLedger } from './rebalance-ledger.ts'

/** Samples come every three seconds while something changes: a look between two of them costs some 10 µs. */
const LOOK_INTERVAL_MS = 1_000
/** Nodes that started together don't look together. */
const JITTER_SHARE = 0.2

export interface RebalanceLoopComponents extends Pick<Hypervisor, 'vms' | 'migrations'> {
  surroundings: Surroundings
  relocations: Pick<Relocations, 'move'>
  ledger: RebalanceLedger
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
 * What it remembers (moves of the last hour, failures) ends with the agent;
 * cool-downs are in the VMs' records and go where they go.
 */
export class RebalanceLoop {
  readonly #components: RebalanceLoopComponents
  readonly #peerId: PeerIdText
  readonly #lookIntervalMs: number
  readonly #random: () => number
  readonly #looking = new Repeating()
  #backOffs: BackOffs = new Map()
  #startedAtMs: number[] = []
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
    const { ledger, migrations, isDraining, vms } = this.#components
    const { situations, machines } = this.#situations(vms.list())
    const nowMs = meshNowMs()
    this.#startedAtMs = this.#startedAtMs.filter((atMs) => atMs > nowMs - BUDGET_MS && atMs <= nowMs)
    const own = {
      peerId: this.#peerId,
      nowMs,
      load: this.#components.load(),
      movesOut: migrations.leaving,
      startedAtMs: this.#startedAtMs,
      backOffs: this.#backOffs,
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
    this.#startedAtMs.push(nowMs)
    this.#moving = this.#move(chosen).finally(() => {
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

  /** Never rejects. */
  async #move(chosen: ConsideredMove): Promise<void> {
    const { ledger, relocations } = this.#components
    const { vmId, to, sum } = chosen
    const destination = { ...to!, memoryBytes: sum!.cost.memoryBytes }
    ledger.decided(chosen)
    try {
      const report = await relocations.move(vmId, destination, {
        automatic: true,
        onProgress: () => {},
        signal: this.#looking.signal,
      })
      this.#ended(chosen, report)
    } catch (error) {
      // Nothing was begun: its user was quicker, say.
      this.#backOffs = afterFailure(this.#backOffs, [vmId], meshNowMs(), this.#random)
      ledger.ended(chosen, errorBody(error))
    }
  }

  #ended(chosen: ConsideredMove, { outcome, error }: MigrationReport): void {
    const { vmId, to } = chosen
    const ids = [vmId, to!.peerId]
    if (outcome === 'completed') {
      this.#backOffs = afterSuccess(this.#backOffs, ids)
      this.#components.ledger.ended(chosen, null)
      return
    }
    // Who cancels wants the VM to stay, and has nothing against the node.
    const whose = outcome === 'cancelled' ? [vmId] : ids
    this.#backOffs = afterFailure(this.#backOffs, whose, meshNowMs(), this.#random)
    this.#components.ledger.ended(chosen, error ?? { code: 'INTERNAL', message: `the move ended ${outcome}` })
  }
}
