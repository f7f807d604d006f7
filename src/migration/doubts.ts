import { setTimeout as sleep } from 'node:timers/promises'
import type { MigrationId } from '../domain/vm.ts'
import { doubtOf } from '../domain/vm.ts'
import type { OpenChannel } from '../wire/channel.ts'
import { MigrationError } from './errors.ts'
import type { DepartingVm } from './ports.ts'
import { VERDICT_RETRY_MS } from './protocol.ts'
import { askUntilAnswered, type Verdict } from './verdict.ts'

interface OpenDoubt {
  /** A person's word, which ends the asking. */
  decide: (verdict: Verdict) => void
  /** The verdict, once it has been acted on here. */
  settled: Promise<Verdict>
}

/**
 * Moves in doubt: asks the destination until it answers, or a person decides,
 * and then gives the VM up or takes it back. Each move is settled once.
 */
export class Doubts {
  readonly #open: OpenChannel
  readonly #doubts = new Map<MigrationId, OpenDoubt>()
  readonly #stopping = new AbortController()

  constructor(components: { open: OpenChannel }) {
    this.#open = components.open
  }

  /** Ends the asking; the doubts stay on disk, and the next start takes them up. */
  async stop(): Promise<void> {
    this.#stopping.abort(new MigrationError('MIGRATION_CANCELLED', 'the agent stops'))
    await Promise.allSettled([...this.#doubts.values()].map(({ settled }) => settled))
  }

  /**
   * @returns the verdict, once it has been acted on; the same for all who ask for one move
   * @throws MigrationError NOT_IN_DOUBT; MIGRATION_CANCELLED when the agent stops first
   */
  settle(vm: DepartingVm): Promise<Verdict> {
    const doubt = doubtOf(vm.record.state)
    if (doubt === null) throw new MigrationError('NOT_IN_DOUBT', `'${vm.record.spec.name}' is not in doubt`)
    const known = this.#doubts.get(doubt.migrationId)
    if (known !== undefined) return known.settled
    const decision = Promise.withResolvers<Verdict>()
    const settled = this.#settle(vm, decision.promise).finally(() => this.#doubts.delete(doubt.migrationId))
    // Whoever waits learns of it; with nobody waiting it is on disk all the same.
    settled.catch(() => {})
    this.#doubts.set(doubt.migrationId, { decide: decision.resolve, settled })
    return settled
  }

  /**
   * A person decides; resolves when that has been acted on. An answer of the
   * destination that came first stands.
   *
   * @throws MigrationError NOT_IN_DOUBT
   */
  async decide(migrationId: MigrationId, verdict: Verdict): Promise<Verdict> {
    const doubt = this.#doubts.get(migrationId)
    if (doubt === undefined) throw new MigrationError('NOT_IN_DOUBT', `move ${migrationId} is not in doubt`)
    doubt.decide(verdict)
    return doubt.settled
  }

  async #settle(vm: DepartingVm, decision: Promise<Verdict>): Promise<Verdict> {
    const asking = new AbortController()
    const answer = askUntilAnswered(
      this.#open,
      vm.record,
      AbortSignal.any([asking.signal, this.#stopping.signal]),
    )
    // When a person decides first, the asking ends without an answer.
    answer.catch(() => {})
    const verdict = await Promise.race([decision, answer])
    asking.abort(new MigrationError('MIGRATION_CANCELLED', 'decided by a person'))
    // A guest that can't be resumed is told of by its own room: it is ours all the same.
    if (verdict === 'refused') await vm.stay().catch(() => {})
    else await this.#leave(vm)
    return verdict
  }

  /** Until it is done: a VM that another node owns must not stay on this one's list. */
  async #leave(vm: DepartingVm): Promise<void> {
    for (
      let delayMs: number = VERDICT_RETRY_MS.first;
      ;
      delayMs = Math.min(delayMs * 2, VERDICT_RETRY_MS.last)
    ) {
      try {
        return await vm.leave()
      } catch {
        await sleep(delayMs, undefined, { signal: this.#stopping.signal })
      }
    }
  }
}
