import { setTimeout as sleep } from 'node:timers/promises'
import type { MigrationProgress } from '../../domain/migration.ts'
import type { VmId, VmRecord } from '../../domain/vm.ts'
import type { VmService } from '../../vm/index.ts'
import { apiError } from '../api/request.ts'
import type { DrainProgress, DrainReply } from '../api-schema.ts'
import type { EventHub } from '../event-hub.ts'
import type { Relocations } from '../relocation/relocate.ts'

/** VMs on their way at a time: what `migrate` takes side by side, too. */
const PARALLEL_MOVES = 4
/** How often it is looked whether what was on its way here when the drain began is here. */
const LOOK_MS = 100

export interface DrainComponents {
  vms: VmService
  relocations: Relocations
  events: EventHub
  onProgress: (progress: DrainProgress) => void
}

/**
 * Moves every VM away, each to wherever it fits best, those with the most
 * memory of their own first: they free the most, and they are the hardest to
 * find room for, which is easiest while the others' room isn't taken yet (first
 * fit decreasing: at most 11/9 of the nodes that the best packing needs; D. S.
 * Johnson, 1973).
 */
export class Drain {
  readonly #components: DrainComponents
  readonly #tried = new Set<VmId>()
  readonly #moved: DrainReply['moved'] = []
  readonly #notPlaced: DrainReply['notPlaced'] = []
  #underWay = 0

  constructor(components: DrainComponents) {
    this.#components = components
  }

  /** Never rejects: what became of each VM is in the reply. When the signal aborts, what has not left stays. */
  async run(node: string, signal: AbortSignal): Promise<DrainReply> {
    do {
      await Promise.all(Array.from({ length: PARALLEL_MOVES }, () => this.#moveOneByOne(signal)))
    } while (await this.#moreCame(signal))
    const stopped = this.#components.vms.list().filter(({ state }) => state.kind === 'stopped')
    return {
      node,
      moved: this.#moved,
      notPlaced: this.#notPlaced,
      stopped: stopped.map(({ spec }) => spec.name),
    }
  }

  async #moveOneByOne(signal: AbortSignal): Promise<void> {
    for (let vm = this.#next(); vm !== undefined; vm = this.#next()) {
      const { id } = vm.spec
      this.#tried.add(id)
      this.#underWay++
      this.#tell(null)
      const onProgress = (move: MigrationProgress) => this.#tell(move)
      const outcome = await this.#components.relocations.relocate(id, { onProgress, signal })
      this.#underWay--
      if (outcome.kind === 'moved') {
        const { vm: name, to, node, report } = outcome
        const { migrationId, durationsMs } = report
        this.#moved.push({ vm: name, to, node, migrationId, durationsMs })
      } else {
        this.#notPlaced.push(this.#failed(outcome.vm, outcome.error))
      }
      this.#tell(null)
    }
  }

  /** The one with the most memory of its own, of those that were not tried yet. */
  #next(): VmRecord | undefined {
    const { vms } = this.#components
    const left = this.#left().map((record) => ({ record, bytes: vms.ownMemoryBytes(record.spec.id) }))
    return left.toSorted((a, b) => b.bytes - a.bytes)[0]?.record
  }

  #left(): VmRecord[] {
    return this.#components.vms
      .list()
      .filter(({ spec, state }) => state.kind !== 'stopped' && !this.#tried.has(spec.id))
  }

  #failed(vm: string, error: unknown): DrainReply['notPlaced'][number] {
    const { code, message, outcome } = apiError(error).error
    this.#components.events.publish({ kind: 'drain-not-placed', vm, code, message })
    return { vm, code, message, outcome }
  }

  /** VMs that were being started or taken in when the drain began; no more are from then on. */
  async #moreCame(signal: AbortSignal): Promise<boolean> {
    while (this.#components.vms.isTakingIn && !signal.aborted) await sleep(LOOK_MS)
    return this.#left().length > 0
  }

  #tell(move: MigrationProgress | null): void {
    this.#components.onProgress({
      moved: this.#moved.length,
      notPlaced: this.#notPlaced.length,
      left: this.#underWay + this.#left().length,
      move,
    })
  }
}
