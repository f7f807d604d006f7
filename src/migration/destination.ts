import { EventEmitter, once } from 'node:events'
import { setInterval } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import { NO_COOL_DOWN } from '../domain/cool-down.ts'
import { DroverError } from '../domain/errors.ts'
import type { TemplateId } from '../domain/template.ts'
import type { PeerIdText } from '../domain/vm.ts'
import { unlessAborted } from '../domain/wait.ts'
import { type GuestLocation, GuestMemory, isMemoryClosed } from '../memory/index.ts'
import { advanceKvmclock, deviceSections, type IncomingStream, type QemuBinary } from '../qemu/index.ts'
import { fetchTemplate, type TemplateStore, templateProviders } from '../template/index.ts'
import type { Channel, OpenChannel } from '../wire/channel.ts'
import type { ControlBody } from '../wire/migration-messages.ts'
import { checkQemuVersion } from './admission.ts'
import { type MoveBoundary, passBoundary } from './boundaries.ts'
import { ControlChannel } from './control.ts'
import { MigrationError } from './errors.ts'
import { extraBlocksOf } from './extra-blocks.ts'
import { refuseFor } from './farewell.ts'
import { RoundGarbage } from './garbage.ts'
import type { MigrationJournal } from './journal.ts'
import type { KeptPages } from './kept/kept-pages.ts'
import { areSoundInTime, CHECK_TIMEOUT_MS } from './kept/soundness.ts'
import { Pace } from './pace.ts'
import type { ArrivingVm, CoolDownRule, FindProviders, MovableVms, Signatures } from './ports.ts'
import { TIMEOUTS_MS } from './protocol.ts'
import { arrivalSlots, receivePages } from './receive-pages.ts'
import type { MigrationEvent } from './service.ts'
import { filterEntriesFor } from './siblings/sibling-filter.ts'
import type { SiblingIndex } from './siblings/sibling-index.ts'
import { Taking } from './taking.ts'
import type { ArrivalJob } from './threads/arrival-job.ts'
import type { Job, PageThreads } from './threads/page-threads.ts'
import type { Slots } from './threads/slots.ts'
import type { PendingGrant } from './verdict.ts'

export interface DestinationComponents {
  vms: MovableVms
  templates: TemplateStore
  open: OpenChannel
  peerId: PeerIdText
  binary: QemuBinary
  threads: PageThreads
  kept: KeptPages
  siblings: SiblingIndex
  journal: MigrationJournal
  signatures: Signatures
  /** Peers that may have a template, the best first. */
  providersOf: FindProviders
  coolDownRule: CoolDownRule
  onEvent: (event: MigrationEvent) => void
}

type Offer = ControlBody<'offer'>
type Finish = ControlBody<'finish'>

/** What the destination holds while a VM arrives. */
interface Session {
  arriving: ArrivingVm
  guest: GuestLocation
  stream: IncomingStream
  job: Job<ArrivalJob>
  slots: Slots
}

/** How often the source hears of a template fetch: well below its patience. */
const TEMPLATE_PROGRESS_MS = 1_000

/**
 * The destination's half of one move. Made by an Offer; run() returns when the
 * VM runs here or nothing is left of it.
 */
export class DestinationMove implements PendingGrant {
  readonly source: PeerIdText
  readonly offer: Offer
  readonly #components: DestinationComponents
  readonly #control: ControlChannel
  readonly #taking: Taking
  readonly #abort = new AbortController()
  readonly #pages = Promise.withResolvers<Channel>()
  readonly #ended = Promise.withResolvers<void>()
  #hasPages = false

  constructor(components: DestinationComponents, init: { channel: Channel; offer: Offer }) {
    this.#components = components
    this.#control = new ControlChannel(init.channel)
    this.source = init.channel.peer
    this.offer = init.offer
    this.#taking = new Taking(
      { ...components, control: this.#control, onBoundary: (boundary) => this.#pass(boundary) },
      { offer: init.offer, source: this.source },
    )
    // A move that fails before its pages stream comes must not leave an unhandled rejection.
    this.#pages.promise.catch(() => {})
  }

  /** Decided here, one way or the other: the source may begin another one, while what is left of this one goes. */
  get isOver(): boolean {
    return this.#taking.isOver
  }

  /** Takes the pages stream that the source opened for this move; resolves when the move has ended. */
  async attachPages(channel: Channel): Promise<{ arrived: boolean }> {
    if (this.#hasPages) throw new MigrationError('PROTOCOL_VIOLATION', 'a second pages stream for one move')
    this.#hasPages = true
    this.#pages.resolve(channel)
    await this.#ended.promise
    return { arrived: this.#taking.handover.state === 'owner' }
  }

  /** See PendingGrant: after it, no Grant of this move is accepted that isn't already being journaled. */
  async settle(): Promise<void> {
    await this.#taking.settle()
    if (this.#taking.handover.state === 'owner') return
    this.#abort.abort(new MigrationError('PEER_LOST', 'the source asks for a verdict: this move is over'))
  }

  /** @throws what made the move fail, after everything of it was discarded and the source was told */
  async run(signal: AbortSignal): Promise<void> {
    const bounded = AbortSignal.any([signal, this.#abort.signal])
    let arriving: ArrivingVm | null = null
    try {
      arriving = await this.#admit()
      this.#pass('reserved')
      await this.#receive(arriving, bounded, signal)
    } catch (error) {
      const { state } = this.#taking.handover
      // The VM is ours, whatever failed after that: the source will ask, and be told.
      if (state === 'owner') return
      this.#taking.handover.on('failed')
      // What this node says no to before it is Ready is a refusal, found at first or later; all else broke.
      const isNo = error instanceof DroverError && error.outcome === 'refused' && state === 'receiving'
      await Promise.all([this.#tellSource(error, isNo || arriving === null), arriving?.discard()])
      throw error
    } finally {
      this.#ended.resolve()
    }
  }

  /** Checks and reserves. What it throws becomes the Refuse. */
  async #admit(): Promise<ArrivingVm> {
    const { vms, templates, binary, journal, coolDownRule } = this.#components
    const { vm: spec, epoch, machine, qemuVersion, privatePages, migrationId } = this.offer
    checkQemuVersion(binary.version, qemuVersion)
    await journal.requireNew(migrationId)
    const isHere = templates.has(spec.templateId)
    if (isHere) this.#requireMachineOf(spec.templateId)
    const templateBytes = isHere ? 0 : machine.memoryBytes
    return vms.reserve({
      spec,
      source: this.source,
      epoch,
      machine,
      privatePages,
      templateBytes,
      migrationId,
      coolDown: coolDownRule(this.offer.coolDown ?? NO_COOL_DOWN, this.source),
    })
  }

  /** Memory was reserved for the machine that was offered: it must be the one that the template has. */
  #requireMachineOf(templateId: TemplateId): void {
    const { machine } = this.#components.templates.get(templateId).manifest
    if (isDeepStrictEqual({ ...machine }, { ...this.offer.machine })) return
    throw new MigrationError('PROTOCOL_VIOLATION', 'the machine offered is not the machine of the template')
  }

  /** @param agent - the agent's own life: a source that is gone ends the move, not what the disk must be told */
  async #receive(arriving: ArrivingVm, signal: AbortSignal, agent: AbortSignal): Promise<void> {
    const templateMissing = !this.#components.templates.has(this.offer.vm.templateId)
    const { baseline, vm } = this.offer
    const { place } = this.#taking
    const baselineHeld =
      !templateMissing && baseline.length > 0 && this.#components.kept.holds(vm.id, baseline)
    await this.#control.send(
      {
        kind: 'accept',
        templateMissing,
        baselineHeld,
        siblings: this.#siblingFilter(templateMissing),
        place,
      },
      signal,
    )
    this.#pass('accept-sent')
    // Heard from now on, whatever else goes on: a source that is gone ends the move at once.
    const finishing = this.#control.receive(['finish'], { timeoutMs: TIMEOUTS_MS.rounds, signal })
    finishing.catch((error) => this.#abort.abort(error))
    const templateBytes = templateMissing ? await this.#fetchTemplate(signal) : 0
    this.#requireMachineOf(this.offer.vm.templateId)
    this.#pass('template-here')

    await using cleanup = new AsyncDisposableStack()
    const session = await this.#launch(arriving, cleanup, signal)
    this.#pass('launched')
    const isBaselineSound = baselineHeld && (await this.#isBaselineSound(session, signal))
    const baselineLost = baselineHeld && !isBaselineSound
    await this.#control.send({ kind: 'prepared', templateBytes, baselineLost }, signal)
    this.#pass('prepared-sent')
    if (isBaselineSound) await this.#applyBaseline(session, signal)
    const finish = await this.#copy(session, finishing, signal)
    const digest = await this.#load(session, finish, signal)
    arriving.requireRoom()
    await this.#taking.ready(digest, signal)
    await this.#taking.take(arriving, { signal, agent })
    await this.#noteArrival(session)
    await this.#settleCounts(session)
    await this.#joinSiblings(session)
  }

  #siblingFilter(templateMissing: boolean): Uint8Array {
    const { vm, privatePages } = this.offer
    if (templateMissing) return new Uint8Array(0)
    return this.#components.siblings.filter(vm.templateId, filterEntriesFor(privatePages))
  }

  /** Fetches the template from the source, and says every second that it goes on. */
  async #fetchTemplate(signal: AbortSignal): Promise<number> {
    const { templates, open, providersOf, onEvent } = this.#components
    const { migrationId, vm, maxBytesPerSecond } = this.offer
    const id = vm.templateId
    const pace = new Pace(maxBytesPerSecond || null)
    const ended = new AbortController()
    let fetchedBytes = 0
    const telling = this.#tellProgress(() => fetchedBytes, AbortSignal.any([signal, ended.signal]))
    try {
      const { bytesReceived, bytesSent } = await fetchTemplate({
        store: templates,
        // The source has it for sure; whoever else does takes a share.
        providers: () => {
          const others = providersOf(id).filter((peer) => peer !== this.source)
          return templateProviders([this.source, ...others], open)
        },
        id,
        onDropped: (dropped) => onEvent({ kind: 'template-provider-dropped', migrationId, id, ...dropped }),
        name: null,
        signal,
        pace: (bytes, fetching) => pace.came(bytes, fetching),
        onProgress: (progress) => {
          fetchedBytes = progress.bytesReceived
        },
      })
      return bytesReceived + bytesSent
    } finally {
      ended.abort()
      await telling
    }
  }

  async #tellProgress(bytes: () => number, signal: AbortSignal): Promise<void> {
    try {
      for await (const _ of setInterval(TEMPLATE_PROGRESS_MS, null, { signal })) {
        await this.#control.send({ kind: 'templateProgress', bytes: bytes() }, signal)
      }
    } catch {
      // The fetch ended, or the source is gone, which the move notices itself.
    }
  }

  /** QEMU on the template, open for pages. */
  async #launch(arriving: ArrivingVm, cleanup: AsyncDisposableStack, signal: AbortSignal): Promise<Session> {
    const { templates, threads, siblings: index } = this.#components
    const { ram: ramPath } = templates.files(this.offer.vm.templateId)
    const { memoryBytes } = templates.get(this.offer.vm.templateId).manifest.machine
    const slots = arrivalSlots()
    const { process, stream, templateState } = await arriving.launch({ signal })
    cleanup.defer(() => stream.abort())
    const dictionary = deviceSections(templateState)
    const siblings = index.of(this.offer.vm.templateId).map(({ guest, pages }) => ({ guest, pages }))
    const extraBlocks = extraBlocksOf(templateState)
    const init = { ramPath, memoryBytes, seed: this.offer.hashSeed, slots, dictionary, siblings, extraBlocks }
    const job = cleanup.use(await threads.open('arrival', init))
    return { arriving, guest: { pid: process.pid, ramPath, memoryBytes }, stream, job, slots }
  }

  /** Whether the pages that the VM left here are as they were. */
  async #isBaselineSound({ job }: Session, signal: AbortSignal): Promise<boolean> {
    const { vm, baseline } = this.offer
    if (!(await job.call('openBaseline', [this.#components.kept.pagesPath(vm.id), baseline]))) return false
    const check = () => job.call('checkBaseline', [])
    return areSoundInTime(check, { timeoutMs: CHECK_TIMEOUT_MS, signal })
  }

  /** Brings QEMU the pages that the VM left here: a round that needs no wire. */
  async #applyBaseline({ job, slots, stream }: Session, signal: AbortSignal): Promise<void> {
    for (;;) {
      signal.throwIfAborted()
      const streamBytes = await job.call('nextBaseline', [0])
      if (streamBytes === 0) return
      await stream.writeEncoded(new Uint8Array(slots[0]!, 0, streamBytes))
    }
  }

  /** For the way back: what the VM came with. Done before the source hears that this move has ended. */
  async #noteArrival({ job }: Session): Promise<void> {
    const { kept } = this.#components
    const { id } = this.offer.vm
    try {
      await kept.arrived(id)
      await job.call('saveTable', [kept.tablePath(id)])
    } catch {
      // A full disk: on its way back all of the VM goes.
    }
  }

  /** For the siblings: what of it they needn't bring. */
  async #joinSiblings({ job, guest }: Session): Promise<void> {
    const { id: vmId, templateId } = this.offer.vm
    try {
      while (await job.call('hashPages', [guest]));
      this.#components.siblings.add({ vmId, templateId, guest, pages: await job.call('hashedPages', []) })
    } catch {
      // A guest that has ended by itself: others bring all of theirs.
    }
  }

  /** Takes rounds in until the source has said Finish and its last round is in QEMU. */
  async #copy(
    { arriving, stream, job, slots }: Session,
    finishing: Promise<Finish>,
    signal: AbortSignal,
  ): Promise<Finish> {
    const pages = await unlessAborted(
      this.#pages.promise,
      AbortSignal.any([signal, AbortSignal.timeout(TIMEOUTS_MS.prepare)]),
    )
    const applied = new EventEmitter()
    const garbage = new RoundGarbage()
    let appliedRounds = 0
    const receiving = receivePages(
      { pages, job, slots, stream, garbage, requireRoom: () => arriving.requireRoom() },
      async (round, lost) => {
        // Before the source hears that all is well: it grew meanwhile, or others did.
        arriving.requireRoom()
        garbage.roundEnded()
        appliedRounds = round
        applied.emit('round')
        await this.#control.send({ kind: 'roundApplied', round, lost }, signal)
        this.#pass('round-applied')
      },
      signal,
    )
    const allApplied = async (): Promise<Finish> => {
      const finish = await finishing
      this.#pass('finish-heard')
      // Every round but the last was waited for before the next began.
      if (finish.rounds !== appliedRounds && finish.rounds !== appliedRounds + 1) {
        throw new MigrationError(
          'PROTOCOL_VIOLATION',
          `Finish after ${finish.rounds} rounds, ${appliedRounds} came`,
        )
      }
      const bounded = AbortSignal.any([signal, AbortSignal.timeout(TIMEOUTS_MS.applyRound)])
      while (appliedRounds < finish.rounds) await once(applied, 'round', { signal: bounded })
      return finish
    }
    // The stream stays open until the source has heard Running: its end before Finish is a failure.
    return Promise.race([
      allApplied(),
      receiving.then(() =>
        Promise.reject(new MigrationError('PEER_LOST', 'the source ended the pages stream')),
      ),
    ])
  }

  /**
   * Verifies what came, gives QEMU the rest and waits until it has loaded: the guest is whole, and paused.
   *
   * @returns the digest of its pages, as computed here
   */
  async #load({ stream, job }: Session, finish: Finish, signal: AbortSignal): Promise<Uint8Array> {
    const finishedMs = performance.now()
    const { digest, deviceState } = await job.call('finish', [finish.deviceState, finish.deviceStateBytes])
    if (!Buffer.from(finish.digest).equals(digest)) {
      throw new MigrationError('DIGEST_MISMATCH', 'the pages that arrived are not the pages that were sent')
    }
    const elapsedNs = BigInt(finish.pausedNs + Math.round((performance.now() - finishedMs) * 1e6))
    await stream.finish(advanceKvmclock(deviceState, elapsedNs))
    await stream.loaded({ timeoutMs: TIMEOUTS_MS.ready, signal })
    return digest
  }

  /** Page counts for the source's report; the guest runs already. */
  async #settleCounts({ guest }: Session): Promise<void> {
    const counts = await countPages(guest)
    await this.#control.send(
      { kind: 'settled', privatePages: counts.private, sharedPages: counts.shared },
      AbortSignal.timeout(TIMEOUTS_MS.running),
    )
  }

  #pass(boundary: MoveBoundary<'destination'>): void {
    passBoundary('destination', boundary, this.offer.migrationId)
  }

  async #tellSource(error: unknown, refused: boolean): Promise<void> {
    const signal = AbortSignal.timeout(TIMEOUTS_MS.farewell)
    const refusal = refuseFor(error)
    const { code, message } = refusal
    const send = this.#control.send(refused ? refusal : { kind: 'abort', code, message }, signal)
    await send.catch(() => {
      // A source that can't be told finds the stream broken.
    })
  }
}

/** Zeros where the guest's memory may not be looked into. */
async function countPages(guest: GuestLocation): Promise<{ private: number; shared: number }> {
  try {
    await using memory = await GuestMemory.open(guest)
    return await memory.counts()
  } catch (error) {
    if (!isMemoryClosed(error)) throw error
    return { private: 0, shared: 0 }
  }
}
