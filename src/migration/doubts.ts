import { doubtOf, type MigrationId, type PeerIdText } from '../domain/vm.ts'
import type { OpenChannel } from '../wire/channel.ts'
import { MigrationError } from './errors.ts'
import type { Grant } from './grant.ts'
import { doubtedHandover, type SourceHandover } from './handover.ts'
import type { DepartingVm, Signatures } from './ports.ts'
import { askUntilAnswered, type Verdict } from './verdict.ts'

interface OpenDoubt {
  handover: SourceHandover
  /** Ends the asking: a person has decided. */
  decided: AbortController
  /** The verdict, once it has been acted on here. */
  settled: Promise<Verdict>
}

export interface DoubtsComponents {
  open: OpenChannel
  signatures: Signatures
  peerId: PeerIdText
  /** Before it is acted on: what is told of the move may not lag behind where the VM is. */
  onVerdict: (migrationId: MigrationId, verdict: Verdict) => Promise<void>
}

/**
 * Moves in doubt: asks the destination until it answers, or a person decides,
 * and then gives the VM up or takes it back. Each move is settled once.
 */
export class Doubts {
  readonly #components: DoubtsComponents
  readonly #doubts = new Map<MigrationId, OpenDoubt>()
  readonly #stopping = new AbortController()

  constructor(components: DoubtsComponents) {
    this.#components = components
  }

  /** Ends the asking; the doubts stay on disk, and the next start takes them up. */
  async stop(): Promise<void> {
    this.#stopping.abort(new MigrationError('MIGRATION_CANCELLED', 'the agent stops'))
    await Promise.allSettled([...this.#doubts.values()].map(({ settled }) => settled))
  }

  /**
   * @param handover - in doubt; without it, the one that the VM's record tells of
   * @returns the verdict, once it has been acted on; the same for all who ask for one move
   * @throws MigrationError NOT_IN_DOUBT; MIGRATION_CANCELLED when the agent stops first
   */
  settle(vm: DepartingVm, handover = this.#recalled(vm)): Promise<Verdict> {
    const { migrationId } = handover.grant!
    const known = this.#doubts.get(migrationId)
    if (known !== undefined) return known.settled
    const decided = new AbortController()
    const settled = this.#settle(vm, handover, decided.signal).finally(() => this.#doubts.delete(migrationId))
    // Whoever waits learns of it; with nobody waiting it is on disk all the same.
    settled.catch(() => {})
    this.#doubts.set(migrationId, { handover, decided, settled })
    return settled
  }

  /**
   * A person decides; resolves when that has been acted on. An answer of the
   * destination that came first stands.
   *
   * @throws MigrationError NOT_IN_DOUBT
   */
  async decide(migrationId: MigrationId, owner: 'source' | 'destination'): Promise<Verdict> {
    const doubt = this.#doubts.get(migrationId)
    if (doubt === undefined) throw new MigrationError('NOT_IN_DOUBT', `move ${migrationId} is not in doubt`)
    if (doubt.handover.state === 'in-doubt') {
      doubt.handover.on(`decided-${owner}`)
      doubt.decided.abort(new MigrationError('MIGRATION_CANCELLED', 'decided by a person'))
    }
    return doubt.settled
  }

  #recalled({ record: { spec, epoch, state } }: DepartingVm): SourceHandover {
    const doubt = doubtOf(state)
    if (doubt === null) throw new MigrationError('NOT_IN_DOUBT', `'${spec.name}' is not in doubt`)
    const grant: Grant = { ...doubt, vmId: spec.id, epoch: epoch + 1, source: this.#components.peerId }
    return doubtedHandover(grant)
  }

  async #settle(vm: DepartingVm, handover: SourceHandover, decided: AbortSignal): Promise<Verdict> {
    const signal = AbortSignal.any([decided, this.#stopping.signal])
    const act = ({ word, ...heard }: Parameters<Parameters<typeof askUntilAnswered>[2]>[0]): void => {
      handover.on(word === 'TAKEN' ? 'taken' : 'refused', { word, ...heard })
    }
    await askUntilAnswered(this.#components, handover.grant!, act, signal).catch((error) => {
      if (!decided.aborted) throw error
    })
    const verdict = handover.state === 'left' ? 'granted' : 'refused'
    await this.#components.onVerdict(handover.grant!.migrationId, verdict)
    // What a disk refuses its own room goes on with, and a guest that can't be resumed it tells of.
    await (verdict === 'granted' ? vm.leave() : vm.stay()).catch(() => {})
    return verdict
  }
}
