import { randomUUID } from 'node:crypto'
import type { PeerIdText } from '../domain/vm.ts'
import { unlessAborted } from '../domain/wait.ts'
import { mostPrivatePages } from '../memory/index.ts'
import type { Channel, OpenChannel } from '../wire/channel.ts'
import type { ControlBody } from '../wire/migration-messages.ts'
import { ControlChannel } from './control.ts'
import { MigrationError } from './errors.ts'
import { Lanes, type MoveLanes } from './lanes.ts'
import type { MovableVm } from './ports.ts'
import { HERD_PROTOCOL, TIMEOUTS_MS } from './protocol.ts'
import { openInTime } from './session.ts'

type HerdVm = ControlBody<'herdOffer'>['vms'][number]

/** One VM of a herd, until its move is cancelled. */
export interface HerdMember {
  readonly vm: MovableVm
  readonly cancelled: AbortSignal
}

/**
 * The moves of one command at the source: none begins before the destination
 * has memory for all of them, then they go side by side, so many at a time.
 * What the destination keeps for those that wait is tied to one channel, open
 * until the last of them has ended. One VM alone needs none of it: its Offer
 * is its admission.
 */
export class Herd {
  readonly #open: OpenChannel
  readonly #moveLanes: MoveLanes
  readonly #to: PeerIdText
  readonly #lanes: Lanes
  readonly #ended = new AbortController()
  /** Resolves with the channel that the admission is tied to; null for one VM alone. */
  readonly #admitted = Promise.withResolvers<Channel | null>()

  constructor(
    components: { open: OpenChannel; lanes: MoveLanes },
    init: { to: PeerIdText; parallel: number },
  ) {
    this.#open = components.open
    this.#moveLanes = components.lanes
    this.#to = init.to
    this.#lanes = new Lanes(init.parallel)
    // Each move learns of it in its turn; with every move cancelled nobody asks.
    this.#admitted.promise.catch(() => {})
  }

  /** Asks the destination for all of them. Once; what comes of it is what `turn` waits for. */
  begin(members: readonly HerdMember[]): void {
    this.#admitted.resolve(members.length > 1 ? this.#admit(members, this.#ended.signal) : null)
  }

  /**
   * Resolves when all are admitted and this one may begin.
   *
   * @returns makes room for the next when disposed
   * @throws RefusedError, MigrationError, MeshError: the admission's, for every move; the signal's reason
   */
  async turn(signal: AbortSignal): Promise<Disposable> {
    await unlessAborted(this.#admitted.promise, signal)
    using entering = new DisposableStack()
    entering.use(await this.#lanes.enter(signal))
    entering.use(await this.#moveLanes.enter(this.#to, signal))
    signal.throwIfAborted()
    return entering.move()
  }

  /** No move is left: the destination frees what it kept. */
  async end(): Promise<void> {
    this.#ended.abort(new MigrationError('MIGRATION_CANCELLED', 'no move of this herd is left'))
    try {
      const channel = await this.#admitted.promise
      await channel?.close()
    } catch {
      // Never admitted, or the channel broke: nothing is kept for us.
    }
  }

  async #admit(members: readonly HerdMember[], signal: AbortSignal): Promise<Channel | null> {
    const vms: HerdVm[] = []
    for (const member of members) {
      const vm = await describe(member)
      if (vm !== null) vms.push(vm)
    }
    if (vms.length < 2) return null
    const channel = await openInTime(this.#open, { to: this.#to, protocol: HERD_PROTOCOL, signal })
    try {
      const control = new ControlChannel(channel)
      await control.send({ kind: 'herdOffer', herdId: randomUUID(), vms }, signal)
      const timeoutMs = TIMEOUTS_MS.accept
      await control.receive(['herdAccept'], { timeoutMs, signal })
      return channel
    } catch (error) {
      channel.abort(error as Error)
      throw error
    }
  }
}

/** What the destination needs to know of a VM; null for one that can't go any more: its own move says why. */
async function describe({ vm, cancelled }: HerdMember): Promise<HerdVm | null> {
  try {
    cancelled.throwIfAborted()
    const { process, ramPath, machine } = vm
    const { id: vmId, templateId } = vm.record.spec
    const { memoryBytes } = machine
    const privatePages = await mostPrivatePages({ pid: process.pid, ramPath, memoryBytes })
    return { vmId, templateId, privatePages, machine }
  } catch {
    return null
  }
}
