import { steadyNowMs } from '../../domain/clock.ts'
import { DroverError, type ErrorBody, type Outcome } from '../../domain/errors.ts'
import type { MigrationProgress, MigrationReport } from '../../domain/migration.ts'
import type { MigrationId, PeerIdText, VmId } from '../../domain/vm.ts'
import { unlessAborted } from '../../domain/wait.ts'
import { type MoveCost, moveCost, rankDestinations } from '../../placement/index.ts'
import { AgentError } from '../errors.ts'
import type { Hypervisor } from '../parts.ts'
import { type Destination, type MachineNeeds, UNFIT_MEANINGS, unfit } from './candidates.ts'
import type { Surroundings } from './surroundings.ts'

/** Nodes that one VM is offered to. Each refusal costs a round trip; a move that fails costs what it had sent. */
const MAX_TRIES = 5
/** Nodes that an error names. */
const MAX_NAMED = 8

export interface RelocationComponents extends Pick<Hypervisor, 'vms' | 'migrations'> {
  surroundings: Surroundings
}

/** A VM that was moved. */
export interface Relocated {
  kind: 'moved'
  vm: string
  /** Peer id and name of its node now. */
  to: PeerIdText
  node: string
  report: MigrationReport
}

/** One that is where it was, or in doubt. */
export interface NotRelocated {
  kind: 'not-moved'
  vm: string
  error: unknown
}

export interface RelocationOptions {
  onProgress: (progress: MigrationProgress) => void
  /** Cancels the move under way; what is handed over already is waited for. */
  signal: AbortSignal
}

interface Refusal {
  node: string
  error: ErrorBody
}

interface UnderWay {
  migrationId: MigrationId
  report: Promise<MigrationReport>
}

/** Moves VMs to wherever there is room: for a node that must not, or can not, keep them. */
export class Relocations {
  readonly #components: RelocationComponents

  constructor(components: RelocationComponents) {
    this.#components = components
  }

  /**
   * Moves one VM to the best of the other nodes, or to the next best where one
   * says no or the move fails. A move of it that is under way already is waited
   * for. Never rejects.
   */
  async relocate(id: VmId, options: RelocationOptions): Promise<Relocated | NotRelocated> {
    const name = this.#components.vms.get(id).spec.name
    try {
      return await this.#relocate(id, name, options)
    } catch (error) {
      return { kind: 'not-moved', vm: name, error }
    }
  }

  /**
   * Where a VM would go now, the best first (placement/rank.ts). A node that
   * announced too little memory comes last, but isn't left out: some may have
   * come free since, and the node itself refuses what it has no room for.
   *
   * @throws what keeps the VM from being moved at all, such as VmError VM_DISK_NOT_MOVABLE
   */
  destinations(id: VmId): Destination[] {
    const { vms, surroundings } = this.#components
    const { record } = vms.movable(id)
    const candidates = surroundings.candidates([surroundings.machine(record)])
    const vm = surroundings.vm(record)
    const { ranked, unfit: rest } = rankDestinations(vm, candidates)
    const full = rest.filter(({ reason }) => reason.code === 'no-room').map(({ peerId }) => peerId)
    const byRoom = candidates
      .filter(({ peerId }) => full.includes(peerId))
      .toSorted((a, b) => b.availableBytes - a.availableBytes)
    return [
      ...ranked.map(({ peerId, name, cost }) => ({ peerId, name, ...costs(cost), hasRoom: true })),
      ...byRoom.map((node) => {
        return { peerId: node.peerId, name: node.name, ...costs(moveCost(vm, node)), hasRoom: false }
      }),
    ]
  }

  async #relocate(id: VmId, vm: string, options: RelocationOptions): Promise<Relocated> {
    const { migrations } = this.#components
    const underWay = migrations.moveOf(id)
    if (underWay !== null) {
      // Somebody else's: not ours to cancel.
      const report = await unlessAborted(this.#watch(underWay, options), options.signal)
      if (report.outcome === 'completed') return this.#moved(report)
    }
    const refusals = new Map<PeerIdText, Refusal>()
    while (refusals.size < MAX_TRIES) {
      options.signal.throwIfAborted()
      const best = this.destinations(id).find(({ peerId }) => !refusals.has(peerId))
      if (best === undefined) break
      const report = await this.move(id, best, options)
      if (report.outcome === 'completed') return this.#moved(report)
      if (report.outcome !== 'refused' && report.outcome !== 'failed') throw reportedError(report)
      refusals.set(best.peerId, { node: best.name, error: report.error! })
    }
    const { vms, surroundings } = this.#components
    throw this.#noDestination(vm, surroundings.machine(vms.movable(id).record), refusals)
  }

  /**
   * One move, to its end. Resolves with its report, whatever became of it.
   *
   * @throws what keeps the VM from being moved at all, or all moves, such as MigrationError TOO_MANY_MOVES
   */
  async move(
    id: VmId,
    { peerId, memoryBytes }: Pick<Destination, 'peerId' | 'memoryBytes'>,
    { automatic = false, ...options }: RelocationOptions & { automatic?: boolean },
  ): Promise<MigrationReport> {
    const { migrations, surroundings, vms } = this.#components
    // Reports name VMs as people do.
    const [start] = migrations.migrate({
      vms: [vms.get(id).spec.name],
      to: peerId,
      parallel: 1,
      maxBandwidthBytesPerSecond: null,
      maxBlackoutMs: null,
      automatic,
    })
    if (start === undefined || 'error' in start) throw start?.error
    const promised = surroundings.promises.begin(peerId, memoryBytes)
    const report = await this.#follow(start, options)
    if (report.outcome === 'completed') promised.arrived(steadyNowMs())
    else promised.failed()
    return report
  }

  /** Until the move has ended; it is cancelled when the signal aborts. */
  async #follow(move: UnderWay, options: RelocationOptions): Promise<MigrationReport> {
    const { signal } = options
    // Too late, or over: the report says what came of it.
    const cancel = () => void this.#components.migrations.cancel(move.migrationId).catch(() => {})
    signal.addEventListener('abort', cancel, { once: true })
    if (signal.aborted) cancel()
    try {
      return await this.#watch(move, options)
    } finally {
      signal.removeEventListener('abort', cancel)
    }
  }

  async #watch(
    { migrationId, report }: UnderWay,
    { onProgress }: Pick<RelocationOptions, 'onProgress'>,
  ): Promise<MigrationReport> {
    const ended = new AbortController()
    const telling = (async () => {
      for await (const step of this.#components.migrations.progress(migrationId, ended.signal))
        onProgress(step)
    })().catch(() => {})
    try {
      return await report
    } finally {
      ended.abort()
      await telling
    }
  }

  #moved(report: MigrationReport): Relocated {
    const { vm, to } = report
    const node = this.#components.surroundings.nodes().find(({ peerId }) => peerId === to)?.name ?? to
    return { kind: 'moved', vm, to, node, report }
  }

  #noDestination(vm: string, machine: MachineNeeds, refusals: ReadonlyMap<PeerIdText, Refusal>): AgentError {
    const nodes = this.#components.surroundings.nodes()
    const reasons = [
      ...[...refusals.values()].map(({ node, error: { code, message } }) => ({ node, code, message })),
      ...nodes.flatMap((node) => {
        const code = unfit(node, machine)
        return code === null ? [] : [{ node: node.name, code, message: UNFIT_MEANINGS[code] }]
      }),
    ].slice(0, MAX_NAMED)
    const why =
      reasons.length === 0
        ? 'there is no other node: see `drover mesh ls`'
        : reasons.map(({ node, code, message }) => `${node}: ${message} (${code})`).join('; ')
    return new AgentError('NO_DESTINATION', `no other node can have '${vm}': ${why}`, {
      details: { vm, reasons },
    })
  }
}

function costs({ memoryBytes, privateBytes, templateBytes }: MoveCost): {
  memoryBytes: number
  sendBytes: number
} {
  return { memoryBytes, sendBytes: privateBytes + templateBytes }
}

/** What ended a move, as an error again. */
function reportedError({ outcome, error }: MigrationReport): DroverError {
  const { code, message, details } = error!
  return new DroverError(code, outcome as Outcome, message, { details })
}
