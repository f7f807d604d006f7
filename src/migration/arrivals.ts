import { DroverError, errorBody } from '../domain/errors.ts'
import type { Policy } from '../domain/policy.ts'
import type { MigrationId, PeerIdText } from '../domain/vm.ts'
import type { Channel, ChannelHandler } from '../wire/channel.ts'
import { type ControlBody, pagesHelloCodec } from '../wire/migration-messages.ts'
import { ControlChannel } from './control.ts'
import { type DestinationComponents, DestinationMove } from './destination.ts'
import { MigrationError } from './errors.ts'
import { refuseFor } from './farewell.ts'
import { KeptHerds } from './kept-herds.ts'
import {
  HANDOVER_PROTOCOL,
  HERD_PROTOCOL,
  MAX_ARRIVALS_PER_PEER,
  MAX_MOVES,
  MIGRATE_PROTOCOL,
  PAGES_PROTOCOL,
  TIMEOUTS_MS,
} from './protocol.ts'
import { serveVerdicts } from './verdict.ts'

/** A hello is a UUID and its field header. */
const MAX_HELLO_BYTES = 128

export interface ArrivalsComponents extends DestinationComponents {
  policy: Policy
  /** A move to here has ended, one way or the other. */
  onEnded: () => void
}

/** The moves to this node: keeps places for herds, takes offers, brings the streams of one move together, answers for Grants. */
export class Arrivals {
  readonly #components: ArrivalsComponents
  readonly #herds: KeptHerds
  readonly #moves = new Map<MigrationId, DestinationMove>()
  readonly #running = new Set<Promise<void>>()
  readonly #stopping = new AbortController()

  constructor(components: ArrivalsComponents) {
    this.#components = components
    const isMoving = (peer: PeerIdText) =>
      [...this.#moves.values()].some(({ source, isOver }) => source === peer && !isOver)
    this.#herds = new KeptHerds({ ...components, isMoving })
  }

  get isMoving(): boolean {
    return this.#running.size > 0
  }

  handlers(): { protocol: string; handler: ChannelHandler }[] {
    const { journal, signatures } = this.#components
    const pending = (migrationId: MigrationId, source: PeerIdText) => this.#find(migrationId, source)
    const untilStop = (signal: AbortSignal) => AbortSignal.any([signal, this.#stopping.signal])
    return [
      {
        protocol: HERD_PROTOCOL,
        handler: (channel, signal) => this.#herds.serve(channel, untilStop(signal)),
      },
      { protocol: MIGRATE_PROTOCOL, handler: (channel, signal) => this.#arrive(channel, signal) },
      { protocol: PAGES_PROTOCOL, handler: (channel, signal) => this.#acceptPages(channel, signal) },
      { protocol: HANDOVER_PROTOCOL, handler: serveVerdicts({ journal, signatures, pending }) },
    ]
  }

  /** Gives up the moves that may be given up, and waits until nothing of them is left. */
  async stop(): Promise<void> {
    this.#stopping.abort(new MigrationError('MIGRATION_CANCELLED', 'the agent stops'))
    await Promise.allSettled(this.#running)
  }

  async #arrive(channel: Channel, signal: AbortSignal): Promise<void> {
    const control = new ControlChannel(channel)
    const offer = await control.receive(['offer'], { timeoutMs: TIMEOUTS_MS.accept, signal })
    const refusal = this.#refusal(offer, channel.peer)
    if (refusal !== null) {
      await control.send(refuseFor(refusal), signal)
      return channel.close()
    }
    const move = new DestinationMove(this.#components, { channel, offer })
    this.#moves.set(offer.migrationId, move)
    const running = this.#run(move, channel, AbortSignal.any([signal, this.#stopping.signal]))
    this.#running.add(running)
    try {
      await running
    } finally {
      this.#running.delete(running)
      this.#components.onEnded()
      // What the disk says of an undecided one, the next start finds out: nobody is answered from what it says now.
      if (move.isOver) this.#moves.delete(offer.migrationId)
    }
  }

  /** Who may not send VMs here learns nothing else. */
  #refusal({ migrationId, automatic }: ControlBody<'offer'>, peer: PeerIdText): DroverError | null {
    try {
      this.#components.policy.requirePermitted('send', peer)
    } catch (error) {
      if (error instanceof DroverError) return error
      throw error
    }
    if (this.#moves.has(migrationId)) {
      return new MigrationError('PROTOCOL_VIOLATION', `move ${migrationId} is under way already`)
    }
    const all = [...this.#moves.values()].filter(({ isOver }) => !isOver)
    const ofPeer = all.filter(({ source }) => source === peer)
    if (automatic && all.length > 0) {
      return new MigrationError('TOO_MANY_MOVES', 'another VM arrives: try again when it is here')
    }
    if (all.length < MAX_MOVES && ofPeer.length < MAX_ARRIVALS_PER_PEER) return null
    const arriving = `${ofPeer.length} VMs arrive from you, ${all.length} in all`
    return new MigrationError('TOO_MANY_MOVES', `${arriving}: try again when they are here`)
  }

  async #run(move: DestinationMove, channel: Channel, signal: AbortSignal): Promise<void> {
    const { onEvent } = this.#components
    const facts = { migrationId: move.offer.migrationId, vm: move.offer.vm.name, from: move.source }
    try {
      await move.run(signal)
    } catch (error) {
      onEvent({ kind: 'migration-discarded', ...facts, code: errorBody(error).code })
      if (!(error instanceof DroverError)) throw error
      // The source was told why: a reset could overtake that.
      return channel.close()
    }
    onEvent({ kind: 'migration-arrived', ...facts })
    await channel.close()
  }

  async #acceptPages(channel: Channel, signal: AbortSignal): Promise<void> {
    const timeout = AbortSignal.any([signal, AbortSignal.timeout(TIMEOUTS_MS.accept)])
    const hello = await channel.receive({ maxBytes: MAX_HELLO_BYTES, signal: timeout })
    if (hello === null) return
    const { migrationId } = pagesHelloCodec.decode(hello)
    const move = this.#find(migrationId, channel.peer)
    if (move === undefined) {
      throw new MigrationError('PROTOCOL_VIOLATION', 'pages for a move that is not under way')
    }
    const { arrived } = await move.attachPages(channel)
    // A source that is still sending must not wait for a reader that is gone.
    if (arrived) await channel.close()
    else channel.abort(new MigrationError('PEER_ABORTED', 'the move has failed here'))
  }

  /** A move is known only to the peer that offered it. */
  #find(migrationId: MigrationId, source: PeerIdText): DestinationMove | undefined {
    const move = this.#moves.get(migrationId)
    return move?.source === source ? move : undefined
  }
}
