import type { MigrationId, PeerIdText } from '../domain/vm.ts'
import { unlessAborted } from '../domain/wait.ts'
import type { StatementBody } from '../wire/migration-messages.ts'
import type { MoveBoundary } from './boundaries.ts'
import type { ControlChannel } from './control.ts'
import { type Grant, hear, sign } from './grant.ts'
import type { SourceHandover } from './handover.ts'
import type { DepartingVm, Signatures } from './ports.ts'
import { TIMEOUTS_MS } from './protocol.ts'

export interface GrantingComponents {
  signatures: Signatures
  peerId: PeerIdText
  handover: SourceHandover
  onBoundary: (boundary: MoveBoundary<'source'>) => void
}

/** The source's way from the last page to the destination's word, once per move: what it says and writes, and when. */
export class Granting {
  readonly #components: GrantingComponents
  readonly #migrationId: MigrationId
  readonly #destination: PeerIdText
  /** The destination's name for this arrival, as its Accept gave it. */
  #place = ''
  /** Started with Finish, awaited before the Grant. */
  #doubt: Promise<void> = Promise.resolve()
  /** Signed while the destination loads. */
  #signed: Promise<StatementBody> | null = null

  constructor(components: GrantingComponents, init: { migrationId: MigrationId; destination: PeerIdText }) {
    this.#components = components
    this.#migrationId = init.migrationId
    this.#destination = init.destination
  }

  accepted(place: string): void {
    this.#place = place
  }

  /** @param digest - of all pages that were sent */
  settleOn({ record }: DepartingVm, digest: Uint8Array): void {
    this.#components.handover.settleOn({
      migrationId: this.#migrationId,
      vmId: record.spec.id,
      epoch: record.epoch + 1,
      source: this.#components.peerId,
      destination: this.#destination,
      place: this.#place,
      digest: Buffer.from(digest).toString('hex'),
    })
  }

  /** Finish is sent: begins to write that the Grant may have left. */
  doubt(vm: DepartingVm): void {
    const grant = this.#grant
    const { destination, place, digest } = grant
    this.#doubt = vm.doubt({ destination, place, digest })
    this.#signed = sign(this.#components.signatures, 'GRANT', grant)
    // Awaited before the Grant; until then a failure must not be an unhandled one.
    this.#doubt.catch(() => {})
    this.#signed.catch(() => {})
  }

  /** Resolves when the doubt is on disk; a slow disk is waited for no longer than the signal lets it. */
  async doubted(signal: AbortSignal): Promise<void> {
    await unlessAborted(this.#doubt, signal)
    this.#components.handover.on('journaled')
    this.#components.onBoundary('doubt-journaled')
  }

  /** Resolves when nothing of the doubt is on its way to disk any more. */
  async idle(): Promise<void> {
    await this.#doubt.catch(() => {})
  }

  /**
   * Ready was heard: from here on there is no way back but the destination's word.
   *
   * @param onRunning - the guest runs there, as far as is known: its word is not checked yet
   * @throws before the Grant has left: the signal's reason. After it: MigrationError, and the state tells which
   */
  async grant(control: ControlChannel, onRunning: () => void, signal: AbortSignal): Promise<void> {
    const { handover, signatures, onBoundary } = this.#components
    const grant = await this.#signed!
    signal.throwIfAborted()
    handover.on('ready')
    const never = new AbortController().signal
    await control.send({ kind: 'grant', ...grant }, never)
    onBoundary('grant-sent')
    const running = await control.receive(['running'], { timeoutMs: TIMEOUTS_MS.running, signal: never })
    onRunning()
    handover.on('taken', await hear(signatures, running, { peer: this.#destination, words: ['TAKEN'] }))
    onBoundary('running-heard')
  }

  get #grant(): Grant {
    return this.#components.handover.grant!
  }
}
