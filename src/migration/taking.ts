import { randomUUID } from 'node:crypto'
import type { PeerIdText } from '../domain/vm.ts'
import type { ControlBody, StatementBody } from '../wire/migration-messages.ts'
import type { MoveBoundary } from './boundaries.ts'
import type { ControlChannel } from './control.ts'
import { type Grant, hear, sign } from './grant.ts'
import { type DestinationHandover, destinationHandover } from './handover.ts'
import type { MigrationJournal } from './journal.ts'
import type { ArrivingVm, Signatures } from './ports.ts'
import { TIMEOUTS_MS } from './protocol.ts'

export interface TakingComponents {
  signatures: Signatures
  peerId: PeerIdText
  journal: MigrationJournal
  control: ControlChannel
  onBoundary: (boundary: MoveBoundary<'destination'>) => void
}

/** The destination's way from the last page to owning the VM, once per arrival: what it writes and says, and when. */
export class Taking {
  /** Names this arrival, in memory alone: see handover.ts. */
  readonly place = randomUUID()
  readonly handover: DestinationHandover
  readonly #components: TakingComponents
  readonly #offer: ControlBody<'offer'>
  readonly #source: PeerIdText
  #writing: Promise<void> | null = null

  constructor(components: TakingComponents, init: { offer: ControlBody<'offer'>; source: PeerIdText }) {
    this.#components = components
    this.#offer = init.offer
    this.#source = init.source
    this.handover = destinationHandover(init.source)
  }

  /** Decided, one way or the other. */
  get isOver(): boolean {
    return this.handover.state === 'owner' || this.handover.state === 'discarded'
  }

  /**
   * The source asks what became of its Grant. After it no Grant is taken that
   * isn't taken already; whoever asks while it is written waits for what comes of it.
   */
  async settle(): Promise<void> {
    await this.#writing?.catch(() => {})
    this.handover.on('asked')
  }

  /** Loaded, verified, paused: says Ready. */
  async ready(digest: Uint8Array, signal: AbortSignal): Promise<void> {
    const { control, onBoundary } = this.#components
    this.handover.settleOn(this.#grantFor(digest))
    this.handover.on('loaded')
    onBoundary('loaded')
    await control.send({ kind: 'ready', digest }, signal)
    onBoundary('ready-sent')
  }

  /**
   * Waits for the Grant, journals it, runs the guest: in this order.
   *
   * @param options.signal - for the waiting
   * @param options.agent - the agent's own life: a source that is gone doesn't end what the disk must be told
   */
  async take(
    arriving: ArrivingVm,
    { signal, agent }: { signal: AbortSignal; agent: AbortSignal },
  ): Promise<void> {
    const { control, signatures, onBoundary } = this.#components
    // Signed while the Grant is on its way; said only when it is true.
    const taken = sign(signatures, 'TAKEN', this.#grant)
    taken.catch(() => {})
    const message = await control.receive(['grant'], { timeoutMs: TIMEOUTS_MS.grant, signal })
    this.handover.on('grant', await hear(signatures, message, { peer: this.#source, words: ['GRANT'] }))
    onBoundary('grant-heard')
    this.#writing = this.#write(arriving, agent)
    await this.#writing
    onBoundary('grant-journaled')
    await this.#run(arriving, await taken)
  }

  /** Rejects when it is certain that nothing was taken, or the agent stops before it is. */
  async #write(arriving: ArrivingVm, agent: AbortSignal): Promise<void> {
    const { journal } = this.#components
    const grant = this.#grant
    try {
      await arriving.take(grant.epoch, this.#offer.paused, [journal.takeWrite(grant)])
    } catch (error) {
      this.handover.on('not-journaled')
      await arriving.untake([journal.untakeWrite(grant)], agent)
      this.handover.on('undone')
      throw error
    }
    this.handover.on('journaled')
  }

  async #run(arriving: ArrivingVm, taken: StatementBody): Promise<void> {
    const { control, onBoundary } = this.#components
    if (!this.#offer.paused) await arriving.resume()
    onBoundary('resumed')
    await control.send({ kind: 'running', ...taken }, AbortSignal.timeout(TIMEOUTS_MS.running))
    onBoundary('running-sent')
  }

  #grantFor(digest: Uint8Array): Grant {
    const { migrationId, vm, epoch } = this.#offer
    return {
      migrationId,
      vmId: vm.id,
      epoch: epoch + 1,
      source: this.#source,
      destination: this.#components.peerId,
      place: this.place,
      digest: Buffer.from(digest).toString('hex'),
    }
  }

  get #grant(): Grant {
    return this.handover.grant!
  }
}
