import { setTimeout as sleep } from 'node:timers/promises'
import { steadyNowMs } from '../domain/clock.ts'
import { coolDownAt } from '../domain/cool-down.ts'
import { DroverError } from '../domain/errors.ts'
import type { MigrationOutcome, MigrationReport, RoundReport } from '../domain/migration.ts'
import { PAGE_BYTES } from '../domain/page.ts'
import type { MigrationId, PeerIdText, VmId, VmSpec } from '../domain/vm.ts'
import { Throttle } from '../memory/index.ts'
import { pagesHelloCodec } from '../wire/migration-messages.ts'
import { type MoveBoundary, passBoundary } from './boundaries.ts'
import { inDoubt, MigrationError } from './errors.ts'
import { peersReason, tellPeer } from './farewell.ts'
import { RoundGarbage } from './garbage.ts'
import { Granting } from './granting.ts'
import { type SourceHandover, sourceHandover } from './handover.ts'
import { MoveMeter } from './meter.ts'
import type { Pace } from './pace.ts'
import type { DepartingVm, MovableVms, Signatures } from './ports.ts'
import { DEFAULT_MAX_BLACKOUT_MS, TIMEOUTS_MS } from './protocol.ts'
import { decideAfterRound, type RoundTaken } from './rounds.ts'
import { sendRound } from './send-round.ts'
import { type SessionComponents, SourceSession } from './session.ts'
import { switchOver } from './switch-over.ts'
import type { Verdict } from './verdict.ts'

export interface MoveRequest {
  /** As the user names it. */
  vm: string
  /** The VM itself, as it is before it departs. */
  spec: VmSpec
  to: PeerIdText
  /** null: DEFAULT_MAX_BLACKOUT_MS. */
  maxBlackoutMs: number | null
  automatic: boolean
}

export interface SourceComponents extends SessionComponents {
  vms: MovableVms
  peerId: PeerIdText
  signatures: Signatures
  qemuVersion: string
  /** One for all moves of a herd. */
  pace: Pace
  /** Resolves when the move may begin; the result ends its turn. Until then the VM isn't touched. */
  turn: (signal: AbortSignal) => Promise<Disposable>
  /** Asks the destination what became of a Grant until it answers, and acts on it. */
  settleDoubt: (vm: DepartingVm, handover: SourceHandover) => Promise<Verdict>
  onProgress: (meter: MoveMeter) => void
  /** The destination owns the VM, which is about to go from here. */
  onLeaving: (meter: MoveMeter) => Promise<void>
}

/** The longest that Node's timers take: 24 days. */
const MAX_TIMER_MS = 2 ** 31 - 1
/** Between two steps of one round that are told. */
const PROGRESS_MS = 200

/**
 * The source's half of one move. One instance per move: run() once, cancel()
 * at any time before the Grant.
 */
export class SourceMove {
  readonly meter: MoveMeter
  readonly #components: SourceComponents
  readonly #request: MoveRequest
  readonly #migrationId: MigrationId
  readonly #handover: SourceHandover
  readonly #cancel = new AbortController()
  readonly #maxBlackoutMs: number
  readonly #doubtReportMs: number
  readonly #granting: Granting

  constructor(
    components: SourceComponents,
    init: { migrationId: MigrationId; request: MoveRequest; doubtReportMs: number },
  ) {
    this.#components = components
    this.#request = init.request
    this.#maxBlackoutMs = init.request.maxBlackoutMs ?? DEFAULT_MAX_BLACKOUT_MS
    this.#doubtReportMs = init.doubtReportMs
    this.#migrationId = init.migrationId
    this.#handover = sourceHandover(init.request.to)
    this.#granting = new Granting(
      { ...components, handover: this.#handover, onBoundary: (boundary) => this.#pass(boundary) },
      { migrationId: init.migrationId, destination: init.request.to },
    )
    this.meter = new MoveMeter({
      migrationId: init.migrationId,
      vm: init.request.vm,
      from: components.peerId,
      to: init.request.to,
      templateId: init.request.spec.templateId,
    })
  }

  get vmId(): VmId {
    return this.#request.spec.id
  }

  get cancelled(): AbortSignal {
    return this.#cancel.signal
  }

  /** @throws MigrationError CANCEL_TOO_LATE once the Grant may have left */
  cancel(): void {
    if (['granted', 'in-doubt', 'left'].includes(this.#handover.state)) {
      throw new MigrationError(
        'CANCEL_TOO_LATE',
        `the VM '${this.#request.vm}' is already handed over or in doubt`,
      )
    }
    this.#cancel.abort(
      new MigrationError('MIGRATION_CANCELLED', `the move of '${this.#request.vm}' was cancelled`),
    )
  }

  /** Moves the VM. Never rejects: what went wrong is in the report. */
  async run(): Promise<MigrationReport> {
    using turn = new DisposableStack()
    let vm: DepartingVm
    try {
      turn.use(await this.#components.turn(this.#cancel.signal))
      this.meter.begin()
      // By its id: while it waited, another VM may have got its name.
      vm = await this.#components.vms.depart(this.vmId, this.#migrationId)
      this.#pass('departed')
    } catch (error) {
      return this.meter.finish(outcomeOf(error), error)
    }
    try {
      await this.#move(vm, this.#cancel.signal)
      return this.meter.finish('completed', null)
    } catch (error) {
      return await this.#afterFailure(vm, error)
    }
  }

  async #move(vm: DepartingVm, signal: AbortSignal): Promise<void> {
    await using session = await SourceSession.open(this.#components, { vm, to: this.#request.to, signal })
    try {
      const { templateMissing } = await this.#negotiate(session, signal)
      using still = new DisposableStack()
      await this.#copyInTime(session, { templateMissing, still }, signal)
      using _blackout = this.#components.pace.blackout()
      await this.#switchOver(session, still, signal)
      await this.#granting.grant(session.control, () => this.meter.stop(), signal)
    } catch (error) {
      const reason = await this.#reasonFor(error, session)
      // The guest goes on first: a peer that hangs is told in its own time.
      try {
        await this.#stayUnlessGranted(vm, () => session.capture.way.release())
      } finally {
        if (this.#handover.state === 'stayed') await tellPeer(session.control, reason)
      }
      throw reason
    }
    await this.#settle(session)
  }

  /** What made the move fail, of an error that only says where it was noticed. */
  async #reasonFor(error: unknown, { control, capture }: SourceSession): Promise<unknown> {
    // Timers and streams tell of an abort, not of its reason.
    if (this.#cancel.signal.aborted) return this.#cancel.signal.reason
    // A guest that is stopped must go on at once: nobody is asked then.
    const isStopped = this.#handover.state !== 'copying' || capture.way.stoppedAtMs !== null
    return isStopped ? error : peersReason(control, error)
  }

  async #negotiate(session: SourceSession, signal: AbortSignal): Promise<{ templateMissing: boolean }> {
    const { vm, capture, control, pages } = session
    this.meter.channels.push(session.controlChannel, pages)
    const privatePages = await capture.way.privatePages()
    this.meter.report.pages.guest = vm.machine.memoryBytes / PAGE_BYTES
    const offeredMs = performance.now()
    await control.send(
      {
        kind: 'offer',
        migrationId: this.#migrationId,
        vm: vm.record.spec,
        epoch: vm.record.epoch,
        privatePages,
        hashSeed: session.hashSeed,
        qemuVersion: this.#components.qemuVersion,
        paused: vm.paused,
        machine: vm.machine,
        baseline: session.baseline ?? new Uint8Array(0),
        automatic: this.#request.automatic,
        coolDown: coolDownAt(vm.record.coolDown, steadyNowMs()),
        maxBytesPerSecond: Math.ceil(this.#components.pace.bytesPerSecond ?? 0),
      },
      signal,
    )
    this.#pass('offered')
    const answer = await control.receive(['accept'], { timeoutMs: TIMEOUTS_MS.accept, signal })
    // Before the page thread is asked for anything: it may have a queue of other VMs' pages.
    session.rttMs = performance.now() - offeredMs
    this.#pass('accepted')
    this.#granting.accepted(answer.place)
    await capture.accepted({ baseline: answer.baselineHeld, siblings: answer.siblings })
    await pages.send(pagesHelloCodec.encode({ migrationId: this.#migrationId }), { signal })
    return answer
  }

  /** Where QEMU stops the guest by itself, its limit counts from then on, whatever the round waits for. */
  async #copyInTime(
    session: SourceSession,
    init: { templateMissing: boolean; still: DisposableStack },
    signal: AbortSignal,
  ): Promise<void> {
    const { way } = session.capture
    const limit = new AbortController()
    let timer: NodeJS.Timeout | undefined
    way.onStopped(() => {
      timer ??= setTimeout(() => limit.abort(), this.#remainingMs(session, performance.now()))
    })
    try {
      await this.#copy(session, init, AbortSignal.any([signal, limit.signal]))
    } catch (error) {
      if (!limit.signal.aborted || signal.aborted) throw error
      throw tookTooLong(this.#maxBlackoutMs)
    } finally {
      // The switchover has a limit of its own.
      way.onStopped(() => {})
      clearTimeout(timer)
    }
  }

  /**
   * Rounds while the guest runs, until the rest is small enough. A guest that was slowed down stands still afterwards,
   * until `still` is disposed: at full speed it would catch up at once on what it could not write.
   */
  async #copy(
    session: SourceSession,
    { templateMissing, still }: { templateMissing: boolean; still: DisposableStack },
    signal: AbortSignal,
  ): Promise<void> {
    const { control, capture } = session
    const isReadyFirst = templateMissing || capture.way.mayStopItself
    if (templateMissing) {
      this.meter.enter('template')
      this.#components.onProgress(this.meter)
    }
    if (isReadyFirst) await this.#prepared(session, signal)
    this.meter.enter('rounds')
    this.#components.onProgress(this.meter)
    await using throttle = new Throttle(capture.freeze)
    using _told = { [Symbol.dispose]: () => (this.meter.throttlePercent = 0) }
    const taken: RoundTaken[] = []
    const garbage = new RoundGarbage()
    for (;;) {
      const round = await this.#sendRound(session, signal)
      const { throttlePercent } = this.meter
      const sentMs = performance.now()
      // The destination's QEMU starts while the first round travels.
      const isLost = taken.length === 0 && !isReadyFirst && (await this.#prepared(session, signal))
      const preparedMs = performance.now()
      const { lost } = await control.receive(['roundApplied'], { timeoutMs: TIMEOUTS_MS.applyRound, signal })
      const appliedMs = performance.now()
      const linkMs = round.ms + appliedMs - preparedMs - session.rttMs
      Object.assign(round, { ms: round.ms + appliedMs - sentMs, throttlePercent })
      this.meter.report.rounds.push(round)
      taken.push({ ...round, linkMs })
      this.#pass('round-applied')
      this.#components.onProgress(this.meter)
      garbage.passed(round.bytes)
      garbage.roundEnded()
      const lostPages = await capture.lose(lost)
      if (capture.way.stoppedAtMs !== null) return
      const isTime = await this.#afterRound(taken, { throttle, rttMs: session.rttMs })
      // Of what was counted on and isn't there, nobody knows yet how long it takes.
      if (!isTime || lostPages > 0 || isLost) continue
      if (throttle.percent > 0) still.use(capture.freeze.hold())
      return
    }
  }

  /**
   * Slows the guest down where that is needed.
   *
   * @returns whether it is time to switch over
   * @throws MigrationError BLACKOUT_TOO_LONG
   */
  async #afterRound(
    taken: readonly RoundTaken[],
    { throttle, rttMs }: { throttle: Throttle; rttMs: number },
  ): Promise<boolean> {
    const decision = decideAfterRound(taken, {
      maxBlackoutMs: this.#request.maxBlackoutMs,
      hardBlackoutMs: DEFAULT_MAX_BLACKOUT_MS,
      rttMs,
      maxBytesPerMs: this.#components.pace.bytesPerMs,
    })
    if (decision.kind === 'throttle') {
      await throttle.set(decision.percent)
      this.meter.throttlePercent = decision.percent
    }
    if (decision.kind === 'give-up') {
      const { allowedMs, prediction } = decision
      const { blackoutMs: predictedBlackoutMs, handOverMs, writtenBytesPerMs, linkBytesPerMs } = prediction
      const handOver = `the hand-over alone takes ${Math.round(handOverMs)} ms`
      const why = handOverMs > allowedMs ? handOver : 'the guest writes too fast'
      throw blackoutTooLong(`${why}: the blackout would be ${Math.round(predictedBlackoutMs)} ms`, {
        maxBlackoutMs: allowedMs,
        predictedBlackoutMs,
        writtenBytesPerSecond: Math.round(writtenBytesPerMs * 1000),
        linkBytesPerSecond: Math.round(linkBytesPerMs * 1000),
        throttlePercent: throttle.percent,
      })
    }
    return decision.kind === 'switch-over'
  }

  /**
   * Waits for the destination's QEMU, and before it for the template where that is missing.
   *
   * @returns whether pages that the destination had kept are to be sent after all
   */
  async #prepared({ control, capture }: SourceSession, signal: AbortSignal): Promise<boolean> {
    for (;;) {
      const message = await control.receive(['prepared', 'templateProgress'], {
        timeoutMs: TIMEOUTS_MS.prepare,
        signal,
      })
      this.meter.report.bytes.template = message.kind === 'prepared' ? message.templateBytes : message.bytes
      this.#components.onProgress(this.meter)
      if (message.kind !== 'prepared') continue
      this.#pass('prepared')
      if (message.baselineLost) await capture.loseBaseline()
      return message.baselineLost
    }
  }

  #sendRound({ capture, pages, link }: SourceSession, signal: AbortSignal): Promise<RoundReport> {
    const round = this.meter.report.rounds.length + 1
    let toldMs = performance.now()
    const onSent = (): void => {
      if (performance.now() - toldMs < PROGRESS_MS) return
      toldMs = performance.now()
      this.#components.onProgress(this.meter)
    }
    const { meter } = this
    const urgent = meter.phase === 'blackout'
    const { pace } = this.#components
    return sendRound({ capture, pages, meter, pace, link, urgent, onSent }, round, signal)
  }

  /**
   * A prediction is no promise: a guest that has stood still so long before the Grant that what follows it, a way there
   * and back, no longer fits its limit goes on here.
   */
  async #switchOver(session: SourceSession, still: DisposableStack, signal: AbortSignal): Promise<void> {
    const startedMs = session.capture.way.stoppedAtMs ?? performance.now()
    this.meter.enter('blackout', startedMs)
    const limit = AbortSignal.timeout(this.#remainingMs(session, startedMs))
    const move = {
      handover: this.#handover,
      meter: this.meter,
      sendRound: (bounded: AbortSignal) => this.#sendRound(session, bounded),
      settleOn: (digest: Uint8Array) => this.#granting.settleOn(session.vm, digest),
      doubt: () => this.#granting.doubt(session.vm),
      onBoundary: (boundary: MoveBoundary<'source'>) => this.#pass(boundary),
      // QEMU finds what it was told as soon as it runs, and the user is told after it.
      onStopping: () => {
        still.dispose()
        this.#components.onProgress(this.meter)
      },
    }
    try {
      const bounded = AbortSignal.any([signal, limit])
      await switchOver(session, move, bounded)
      await this.#granting.doubted(bounded)
      // A busy event loop comes to its timers late.
      if (this.#remainingMs(session, startedMs) > 0) return
    } catch (error) {
      if (!limit.aborted || signal.aborted) throw error
    }
    throw tookTooLong(this.#maxBlackoutMs)
  }

  /** How long a guest that has stood still since then may still do so before the Grant: the way there and back is kept. */
  #remainingMs({ rttMs }: SourceSession, sinceMs: number): number {
    const remainingMs = this.#maxBlackoutMs - rttMs - (performance.now() - sinceMs)
    return Math.min(Math.max(0, Math.ceil(remainingMs)), MAX_TIMER_MS)
  }

  #pass(boundary: MoveBoundary<'source'>): void {
    passBoundary('source', boundary, this.#migrationId)
  }

  /** The VM runs at the destination: what fails here costs a number in the report, nothing else. */
  async #settle(session: SourceSession): Promise<void> {
    const { vm, control, capture } = session
    const { report } = this.meter
    try {
      const { pageHashes } = this.#components.templates.files(vm.record.spec.templateId)
      const { stockPages, sent, baseline, ...pages } = await capture.summary(pageHashes)
      Object.assign(report.pages, pages)
      // Nothing of these was in a round.
      report.pages.reference += baseline
      report.pages.sent += baseline
      await this.#keepPages(session, sent)
      report.bytes.stockEquivalent = stockPages * PAGE_BYTES + report.bytes.deviceState
      const never = new AbortController().signal
      const settled = await control.receive(['settled'], { timeoutMs: TIMEOUTS_MS.running, signal: never })
      const { privatePages, sharedPages } = settled
      // Where nobody may look into the guest's memory, none is told.
      if (privatePages + sharedPages > 0) report.destination = { private: privatePages, shared: sharedPages }
      await session.close()
    } finally {
      await this.#components.onLeaving(this.meter)
      await vm.leave()
      this.#pass('left')
    }
  }

  /** Keeps what the VM leaves behind, for its return. What goes wrong with that costs nobody anything. */
  async #keepPages({ vm, capture }: SourceSession, pages: number): Promise<void> {
    const { kept } = this.#components
    const { id } = vm.record.spec
    try {
      await kept.departed(id)
      if (!capture.way.mayKeep) return
      using room = await kept.makeRoom(id, pages)
      if (room !== null) await capture.keep(kept.pagesPath(id))
    } catch {
      // A full disk, or a QEMU that has ended by itself: the VM returns with all its pages.
    }
  }

  /** Takes a VM back that nobody else can have; one whose Grant may have left is asked for. */
  async #stayUnlessGranted(vm: DepartingVm, release: () => Promise<void> = async () => {}): Promise<void> {
    if (this.#handover.on('failed') !== 'stay') return
    // Writes of one record keep their order: the doubt first, then the end of it.
    await this.#granting.idle()
    // A QEMU that doesn't let go of its migration is resumed all the same.
    await release().catch(() => {})
    await vm.stay()
  }

  async #afterFailure(vm: DepartingVm, error: unknown): Promise<MigrationReport> {
    try {
      await this.#stayUnlessGranted(vm)
    } catch (cause) {
      return this.meter.finish(outcomeOf(cause), cause)
    }
    switch (this.#handover.state) {
      case 'in-doubt':
        return await this.#doubtful(vm, error)
      case 'left':
        return this.meter.finish('completed', error)
      default:
        return this.meter.finish(outcomeOf(error), error)
    }
  }

  /** Reports in doubt if the destination doesn't answer soon; the asking goes on without us. */
  async #doubtful(vm: DepartingVm, error: unknown): Promise<MigrationReport> {
    const verdict = await Promise.race([
      // It rejects when the agent stops: the doubt stays, on disk.
      this.#components.settleDoubt(vm, this.#handover).catch(() => null),
      sleep(this.#doubtReportMs, null, { ref: false }),
    ])
    if (verdict === null) {
      return this.meter.finish('in-doubt', inDoubt(this.#request.vm, this.#request.to, error))
    }
    return verdict === 'granted' ? this.meter.finish('completed', null) : this.meter.finish('failed', error)
  }
}

function blackoutTooLong(
  what: string,
  details: { maxBlackoutMs: number } & Record<string, number>,
): MigrationError {
  return new MigrationError(
    'BLACKOUT_TOO_LONG',
    `${what}, ${details.maxBlackoutMs} ms are allowed; raise --max-blackout or move it when it is calmer`,
    { details },
  )
}

function tookTooLong(maxBlackoutMs: number): MigrationError {
  return blackoutTooLong('the hand-over took longer than foreseen', { maxBlackoutMs })
}

/** What a move that ended with this error is reported as. */
function outcomeOf(error: unknown): MigrationOutcome {
  if (!(error instanceof DroverError)) return 'failed'
  return error.outcome === 'usage' ? 'refused' : error.outcome
}
