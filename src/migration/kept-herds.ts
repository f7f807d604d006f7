import { errorBody } from '../domain/errors.ts'
import type { Policy } from '../domain/policy.ts'
import type { PeerIdText } from '../domain/vm.ts'
import type { TemplateStore } from '../template/index.ts'
import type { Channel } from '../wire/channel.ts'
import type { ControlBody } from '../wire/migration-messages.ts'
import { ControlChannel } from './control.ts'
import { MigrationError } from './errors.ts'
import { refuseFor } from './farewell.ts'
import type { MovableVms } from './ports.ts'
import { MAX_HERDS_PER_PEER, TIMEOUTS_MS } from './protocol.ts'
import type { MigrationEvent } from './service.ts'

export interface KeptHerdsComponents {
  vms: MovableVms
  templates: TemplateStore
  policy: Policy
  /** Whether a move from that peer to here is under way. */
  isMoving: (peer: PeerIdText) => boolean
  onEvent: (event: MigrationEvent) => void
}

type HerdOffer = ControlBody<'herdOffer'>

/** Herds on their way to this node: memory for all VMs of one, kept for as long as its source holds the channel. */
export class KeptHerds {
  readonly #components: KeptHerdsComponents
  readonly #idleMs: number
  readonly #herds = new Set<{ herdId: string; source: PeerIdText }>()

  constructor(components: KeptHerdsComponents, { idleMs = TIMEOUTS_MS.herdIdle }: { idleMs?: number } = {}) {
    this.#components = components
    this.#idleMs = idleMs
  }

  /** Serves one channel of HERD_PROTOCOL, to its end. */
  async serve(channel: Channel, signal: AbortSignal): Promise<void> {
    const control = new ControlChannel(channel)
    const offer = await control.receive(['herdOffer'], { timeoutMs: TIMEOUTS_MS.accept, signal })
    const facts = { herdId: offer.herdId, from: channel.peer, vms: offer.vms.length }
    using kept = new DisposableStack()
    try {
      kept.use(this.#keep(offer, channel.peer))
    } catch (error) {
      this.#components.onEvent({ kind: 'herd-refused', ...facts, code: errorBody(error).code })
      await control.send(refuseFor(error), signal)
      return channel.close()
    }
    this.#components.onEvent({ kind: 'herd-admitted', ...facts })
    await control.send({ kind: 'herdAccept' }, signal)
    await this.#untilClosed(channel, signal)
  }

  /** Doesn't wait, so what is counted is still true when it is kept. */
  #keep({ herdId, vms }: HerdOffer, source: PeerIdText): Disposable {
    this.#components.policy.requirePermitted('send', source)
    const ofPeer = [...this.#herds].filter((herd) => herd.source === source)
    if (ofPeer.some((herd) => herd.herdId === herdId)) {
      throw new MigrationError('PROTOCOL_VIOLATION', `herd ${herdId} is under way already`)
    }
    if (ofPeer.length >= MAX_HERDS_PER_PEER) {
      throw new MigrationError(
        'TOO_MANY_MOVES',
        `${ofPeer.length} herds are on their way from you: try again when one is here`,
      )
    }
    const { templates } = this.#components
    using keeping = new DisposableStack()
    keeping.use(
      this.#components.vms.reserveHerd(
        vms.map(({ vmId, templateId, privatePages, machine }) => ({
          id: vmId,
          source,
          templateId,
          privatePages,
          missingTemplateBytes: templates.has(templateId) ? 0 : machine.memoryBytes,
        })),
      ),
    )
    const herd = { herdId, source }
    this.#herds.add(herd)
    keeping.defer(() => this.#herds.delete(herd))
    return keeping.move()
  }

  /**
   * A herd whose moves go on is kept for as long as they take. One whose source
   * has nothing under way to here for a while isn't coming: others need the memory.
   *
   * @throws MigrationError PROTOCOL_VIOLATION, MIGRATION_TIMEOUT; whatever broke the channel
   */
  async #untilClosed(channel: Channel, signal: AbortSignal): Promise<void> {
    const idleMs = this.#idleMs
    const idle = new AbortController()
    let movedAtMs = performance.now()
    const watch = setInterval(() => {
      const nowMs = performance.now()
      if (this.#components.isMoving(channel.peer)) movedAtMs = nowMs
      if (nowMs - movedAtMs < idleMs) return
      idle.abort(new MigrationError('MIGRATION_TIMEOUT', `no VM of the herd was offered in ${idleMs} ms`))
    }, idleMs / 10)
    try {
      const message = await channel.receive({ maxBytes: 0, signal: AbortSignal.any([signal, idle.signal]) })
      if (message !== null) {
        throw new MigrationError('PROTOCOL_VIOLATION', 'a message where the end of the channel was due')
      }
    } finally {
      clearInterval(watch)
    }
  }
}
