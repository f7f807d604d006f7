import { randomUUID } from 'node:crypto'
import { EventEmitter, on } from 'node:events'
import { errorBody } from '../domain/errors.ts'
import type { MigrationProgress, MigrationReport } from '../domain/migration.ts'
import type { Policy } from '../domain/policy.ts'
import type { TemplateId } from '../domain/template.ts'
import { doubtOf, type MigrationId, type PeerIdText, type VmId } from '../domain/vm.ts'
import { hashTracker, probeSoftDirty, type ScannedMemory, softDirtyTracker } from '../memory/index.ts'
import type { QemuBinary } from '../qemu/index.ts'
import {
  type DroppedProvider,
  serveTemplate,
  TEMPLATE_PROTOCOL,
  type TemplateStore,
} from '../template/index.ts'
import type { ChannelHandler, OpenChannel } from '../wire/channel.ts'
import { Arrivals } from './arrivals.ts'
import { Doubts } from './doubts.ts'
import { inDoubt, MigrationError } from './errors.ts'
import { IdleGarbage } from './garbage.ts'
import type { SourceHandover } from './handover.ts'
import { Herd, type HerdMember } from './herd.ts'
import { MigrationJournal } from './journal.ts'
import { KeptPages } from './kept/kept-pages.ts'
import { MoveLanes } from './lanes.ts'
import { MoveMeter } from './meter.ts'
import { MoveReports } from './move-reports.ts'
import { Pace } from './pace.ts'
import type {
  CoolDownRule,
  Database,
  DepartingVm,
  FindProviders,
  MovableVm,
  MovableVms,
  Signatures,
} from './ports.ts'
import { MAX_DEPARTURES, TIMEOUTS_MS } from './protocol.ts'
import { SiblingIndex } from './siblings/sibling-index.ts'
import { type MoveRequest, type SourceComponents, SourceMove } from './source.ts'
import { PageThreads } from './threads/page-threads.ts'
import type { Verdict } from './verdict.ts'

export type MigrationEvent =
  | { kind: 'migration-started'; migrationId: MigrationId; vm: string; to: PeerIdText }
  | { kind: 'migration-ended'; migrationId: MigrationId; vm: string; to: PeerIdText; outcome: string }
  | { kind: 'migration-arrived'; migrationId: MigrationId; vm: string; from: PeerIdText }
  | { kind: 'herd-admitted'; herdId: string; from: PeerIdText; vms: number }
  | { kind: 'herd-refused'; herdId: string; from: PeerIdText; vms: number; code: string }
  | { kind: 'migration-discarded'; migrationId: MigrationId; vm: string; from: PeerIdText; code: string }
  | { kind: 'migration-in-doubt'; migrationId: MigrationId; vm: string; to: PeerIdText }
  | { kind: 'migration-settled'; migrationId: MigrationId; vm: string; verdict: Verdict }
  | ({ kind: 'template-provider-dropped'; migrationId: MigrationId; id: TemplateId } & DroppedProvider)

export interface MigrationComponents {
  db: Database
  vms: MovableVms
  templates: TemplateStore
  open: OpenChannel
  peerId: PeerIdText
  signatures: Signatures
  binary: QemuBinary
  providersOf: FindProviders
  /** Who may send VMs here, and fetch templates. */
  policy: Policy
  /** Left out: it is kept as it came. */
  coolDownRule?: CoolDownRule
  onEvent: (event: MigrationEvent) => void
}

/** VMs that go to one node together. */
export interface HerdRequest {
  /** Names or ids. */
  vms: readonly string[]
  to: PeerIdText
  /** For all of them together. */
  maxBandwidthBytesPerSecond: number | null
  /** Of each; null: DEFAULT_MAX_BLACKOUT_MS. */
  maxBlackoutMs: number | null
  /** Moves side by side. */
  parallel: number
  /** Nobody waits for it: the destination takes such a move when no other VM arrives there. Default: false. */
  automatic?: boolean
}

/** What became of one VM of a request: its move, whose report never rejects, or why there is none. */
export type MoveStart =
  | { vm: string; migrationId: MigrationId; report: Promise<MigrationReport> }
  | { vm: string; error: unknown }

export interface MigrationInit {
  /** The agent's: pages of departed VMs are kept in it. */
  dataDir: string
  /** What those may take on disk; 0: none are kept. */
  keepLimitBytes: number
  /** How long a caller waits for a move in doubt before its report says so; asking goes on. */
  doubtReportMs?: number
}

/** All moves of this node: those away, those here, and those in doubt. */
export class MigrationService {
  /** Told of other work that leaves much behind, too. */
  readonly garbage = new IdleGarbage(() => this.isMoving)
  readonly #components: MigrationComponents
  readonly #reports: MoveReports
  readonly #departures = new Map<MigrationId, SourceMove>()
  readonly #arrivals: Arrivals
  readonly #doubts: Doubts
  readonly #progress = new EventEmitter()
  /** Reports of moves that have not ended. */
  readonly #ending = new Map<MigrationId, Promise<MigrationReport>>()
  readonly #lanes = new MoveLanes()
  readonly #threads = new PageThreads()
  readonly #kept: KeptPages
  readonly #siblings = new SiblingIndex((id) => this.#components.vms.isRunning(id))
  /** Herds until their channels are closed. */
  readonly #herds = new Set<Promise<void>>()
  readonly #doubtReportMs: number
  #softDirty = false
  #isStopping = false

  constructor(
    components: MigrationComponents,
    { dataDir, keepLimitBytes, doubtReportMs = TIMEOUTS_MS.doubtReport }: MigrationInit,
  ) {
    this.#components = components
    this.#doubtReportMs = doubtReportMs
    this.#kept = new KeptPages({ dataDir, limitBytes: keepLimitBytes })
    this.#reports = new MoveReports(components.db)
    this.#arrivals = new Arrivals({
      ...components,
      threads: this.#threads,
      kept: this.#kept,
      siblings: this.#siblings,
      coolDownRule: components.coolDownRule ?? ((claimed) => claimed),
      onEnded: () => this.garbage.workEnded(),
      journal: new MigrationJournal(components.db),
    })
    this.#doubts = new Doubts({
      ...components,
      onVerdict: (migrationId, verdict) => this.#reports.correct(migrationId, verdict),
    })
    this.#progress.setMaxListeners(0)
  }

  /** Probes the kernel and takes up what was in doubt when the agent ended. */
  async start(): Promise<void> {
    this.#threads.start()
    this.#softDirty = await probeSoftDirty()
    await this.#kept.start((id) => this.#components.vms.has(id))
    for (const vm of this.#components.vms.inDoubt()) {
      await this.#recallReport(vm)
      void this.#settleDoubt(vm)
    }
  }

  /** An agent that was killed after its Grant has left no report that says so: people look for one. */
  async #recallReport({ record: { spec, state } }: DepartingVm): Promise<void> {
    const { migrationId, destination } = doubtOf(state)!
    if ((await this.#reports.get(migrationId))?.outcome === 'in-doubt') return
    const { name: vm, templateId } = spec
    const move = { migrationId, vm, from: this.#components.peerId, to: destination, templateId }
    const report = new MoveMeter(move).finish('in-doubt', inDoubt(vm, destination))
    await this.#reports.save(report)
  }

  /** Cancels the moves that may be cancelled and waits for the others. */
  async stop(): Promise<void> {
    this.#isStopping = true
    for (const move of this.#departures.values()) {
      try {
        move.cancel()
      } catch {
        // Handed over already: it ends by itself within its own bounds.
      }
    }
    await Promise.all([Promise.allSettled(this.#ending.values()), this.#arrivals.stop()])
    await Promise.all(this.#herds)
    await this.#doubts.stop()
    await this.#threads.close()
  }

  /** What this room serves to peers. */
  handlers(): { protocol: string; handler: ChannelHandler }[] {
    const { templates, policy } = this.#components
    const serve = serveTemplate(templates, { policy })
    const handler: ChannelHandler = (channel, signal) =>
      serve(channel, signal).finally(() => this.garbage.workEnded())
    return [...this.#arrivals.handlers(), { protocol: TEMPLATE_PROTOCOL, handler }]
  }

  /** Pages of departed VMs that this node keeps, on disk. */
  get keptPages(): Pick<KeptPages, 'bytes' | 'giveWay'> {
    return this.#kept
  }

  /**
   * Moves VMs away: admitted together, then side by side. A VM that can't be
   * moved doesn't keep the others here.
   *
   * @throws MigrationError MIGRATION_CANCELLED when the agent stops, ALREADY_HERE, TOO_MANY_MOVES: for all of them
   */
  migrate({ vms, to, parallel, automatic = false, ...limits }: HerdRequest): MoveStart[] {
    // Peers may still command: the mesh goes after this.
    if (this.#isStopping) throw new MigrationError('MIGRATION_CANCELLED', 'the agent stops')
    if (to === this.#components.peerId) {
      throw new MigrationError('ALREADY_HERE', 'that is the node that they are on', { details: { vms, to } })
    }
    if (this.#departures.size + vms.length > MAX_DEPARTURES) {
      const underWay = `${this.#departures.size} moves run or wait already, of ${MAX_DEPARTURES}`
      throw new MigrationError('TOO_MANY_MOVES', `${underWay}: try again later`)
    }
    const herd = new Herd({ open: this.#components.open, lanes: this.#lanes }, { to, parallel })
    const pace = new Pace(limits.maxBandwidthBytesPerSecond)
    const members: HerdMember[] = []
    const starts = vms.map((vm): MoveStart => {
      try {
        const movable = this.#movable(vm)
        const { maxBlackoutMs } = limits
        const request = { vm, spec: movable.record.spec, to, maxBlackoutMs, automatic }
        const move = this.#depart(request, { pace, turn: (signal) => herd.turn(signal) })
        members.push({ vm: movable, cancelled: move.cancelled })
        const { migrationId } = move.meter.report
        return { vm, migrationId, report: this.#ending.get(migrationId)! }
      } catch (error) {
        return { vm, error }
      }
    })
    herd.begin(members)
    this.#endWithItsMoves(herd, starts)
    return starts
  }

  /** @throws what makes a move of the VM impossible; MigrationError VM_BUSY while another one of it waits */
  #movable(vm: string): MovableVm {
    const movable = this.#components.vms.movable(vm)
    const waiting = this.moveOf(movable.record.spec.id)
    if (waiting === null) return movable
    const { migrationId } = waiting
    throw new MigrationError(
      'VM_BUSY',
      `'${vm}' is to be moved already: wait for it, or \`drover migration cancel ${migrationId}\``,
      { details: { vm, migrationId } },
    )
  }

  #depart(request: MoveRequest, shared: Pick<SourceComponents, 'pace' | 'turn'>): SourceMove {
    const migrationId = randomUUID()
    const move = new SourceMove(
      {
        ...this.#components,
        ...shared,
        threads: this.#threads,
        kept: this.#kept,
        qemuVersion: this.#components.binary.version,
        trackerFor: (memory: ScannedMemory) =>
          this.#softDirty ? softDirtyTracker(memory) : hashTracker(memory),
        settleDoubt: (vm, handover) => this.#settleDoubt(vm, handover),
        onProgress: () => this.#progress.emit(migrationId, this.#progressOf(move)),
        onLeaving: () => {
          this.#siblings.remove(request.spec.id)
          return this.#reports.correct(migrationId, 'granted')
        },
      },
      { migrationId, request, doubtReportMs: this.#doubtReportMs },
    )
    this.#departures.set(migrationId, move)
    this.#components.onEvent({ kind: 'migration-started', migrationId, vm: request.vm, to: request.to })
    const report = this.#finish(move, this.#begin(move))
    this.#ending.set(migrationId, report)
    const forget = () => this.#ending.delete(migrationId)
    report.then(forget, forget)
    return move
  }

  #endWithItsMoves(herd: Herd, starts: readonly MoveStart[]): void {
    const reports = starts.flatMap((start) => ('report' in start ? [start.report] : []))
    const ended = Promise.allSettled(reports).then(() => herd.end())
    this.#herds.add(ended)
    const forget = () => this.#herds.delete(ended)
    ended.then(forget, forget)
  }

  /** What an agent that is killed leaves of the move; its end is written over it. */
  async #begin({ meter: { report } }: SourceMove): Promise<void> {
    const error = errorBody(
      new MigrationError(
        'MIGRATION_INTERRUPTED',
        'the agent ended in the middle of it: the VM stayed where it was',
      ),
    )
    await this.#reports.save({ ...report, outcome: 'failed', error })
  }

  async #finish(move: SourceMove, begun: Promise<void>): Promise<MigrationReport> {
    const report = await move.run().catch((error: unknown) => move.meter.finish('failed', error))
    const { migrationId, vm, to, outcome } = report
    await begun
    await this.#reports.save(report)
    this.#departures.delete(migrationId)
    this.garbage.workEnded()
    this.#progress.emit(migrationId, null)
    this.#components.onEvent({ kind: 'migration-ended', migrationId, vm, to, outcome })
    return report
  }

  /** The move of a VM of this node that is under way, or waits for its turn; its report never rejects. */
  moveOf(vmId: VmId): { migrationId: MigrationId; report: Promise<MigrationReport> } | null {
    const move = [...this.#departures.values()].find((departure) => departure.vmId === vmId)
    if (move === undefined) return null
    const { migrationId } = move.meter.report
    return { migrationId, report: this.#ending.get(migrationId)! }
  }

  /** How many VMs of this node are on their way, or wait for their turn. */
  get leaving(): number {
    return this.#departures.size
  }

  /** Whether any VM is on its way to or from this node. */
  get isMoving(): boolean {
    return this.#departures.size > 0 || this.#arrivals.isMoving
  }

  /** Moves from here: those under way as far as they are, ended ones as they ended; oldest first. */
  async list(): Promise<{ report: MigrationReport; running: boolean }[]> {
    const ended = await this.#reports.all()
    return [
      ...ended
        .filter(({ migrationId }) => !this.#departures.has(migrationId))
        .map((report) => ({ report, running: false })),
      ...[...this.#departures.values()].map(({ meter }) => ({ report: meter.report, running: true })),
    ]
  }

  /** @throws MigrationError MIGRATION_NOT_FOUND */
  async get(migrationId: MigrationId): Promise<{ report: MigrationReport; running: boolean }> {
    const departure = this.#departures.get(migrationId)
    if (departure !== undefined) return { report: departure.meter.report, running: true }
    const report = await this.#reports.get(migrationId)
    if (report !== undefined) return { report, running: false }
    throw new MigrationError('MIGRATION_NOT_FOUND', `no move ${migrationId}: see \`drover migration ls\``)
  }

  /** Steps of a move from now on; ends with the move. */
  async *progress(migrationId: MigrationId, signal: AbortSignal): AsyncGenerator<MigrationProgress> {
    const move = this.#departures.get(migrationId)
    if (move === undefined) return
    const steps = on(this.#progress, migrationId, { signal })
    yield this.#progressOf(move)
    for await (const [step] of steps) {
      if (step === null) return
      yield step as MigrationProgress
    }
  }

  /** @throws MigrationError MIGRATION_NOT_FOUND, CANCEL_TOO_LATE */
  async cancel(migrationId: MigrationId): Promise<void> {
    const departure = this.#departures.get(migrationId)
    if (departure !== undefined) return departure.cancel()
    await this.get(migrationId)
    throw new MigrationError('CANCEL_TOO_LATE', `move ${migrationId} has ended`)
  }

  /**
   * A person decides a move in doubt, because the destination is lost for good.
   *
   * @throws MigrationError MIGRATION_NOT_FOUND, NOT_IN_DOUBT
   */
  async resolve(migrationId: MigrationId, owner: 'source' | 'destination'): Promise<void> {
    await this.#doubts.decide(migrationId, owner).catch(async (error) => {
      // A move that never was has a better answer than that it isn't in doubt.
      await this.get(migrationId)
      throw error
    })
  }

  #settleDoubt(vm: DepartingVm, handover?: SourceHandover): Promise<Verdict> {
    const settled = this.#doubts.settle(vm, handover)
    const { name } = vm.record.spec
    const { migrationId, destination } = doubtOf(vm.record.state)!
    this.#components.onEvent({ kind: 'migration-in-doubt', migrationId, vm: name, to: destination })
    const onSettled = async (verdict: Verdict) => {
      // The report that says "in doubt" is saved before it is corrected.
      await this.#ending.get(migrationId)
      await this.#reports.correct(migrationId, verdict)
      this.#components.onEvent({ kind: 'migration-settled', migrationId, vm: name, verdict })
    }
    settled.then(onSettled).catch(() => {
      // The agent stops: the doubt is on disk, and its report says so.
    })
    return settled
  }

  #progressOf({ meter }: SourceMove): MigrationProgress {
    const { migrationId, vm, to, rounds, pages, bytes } = meter.report
    return {
      migrationId,
      vm,
      to,
      phase: meter.phase,
      // The one under way.
      round: rounds.length + 1,
      pagesSent: pages.sent,
      bytesSent: bytes.pages + bytes.template,
      throttlePercent: meter.throttlePercent,
    }
  }
}
