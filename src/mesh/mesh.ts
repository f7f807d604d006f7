import { EventEmitter } from 'node:events'
import type { NodeInventory, NodeView } from '../domain/node.ts'
import type { TemplateId } from '../domain/template.ts'
import type { Channel, ChannelHandler } from '../wire/channel.ts'
import { isReachable } from './address.ts'
import type { HandlerLimits } from './channels.ts'
import type { NodeEvent } from './directory.ts'
import { MeshError } from './errors.ts'
import { fetchInventory, INVENTORY_PROTOCOL, INVENTORY_TIMEOUT_MS } from './inventory.ts'
import { encodeJoinToken } from './join-token.ts'
import type { LostVm } from './lost-vms.ts'
import type { MemberEvent, Membership, MemberView } from './membership.ts'
import {
  type MeshComponents,
  type MeshEvents,
  type MeshInit,
  type MeshParts,
  NO_INVENTORY,
  startParts,
} from './mesh-parts.ts'
import { isPeerId, type Removal } from './removal-envelope.ts'
import type { PeerSignatures } from './signatures.ts'

/** A node that was removed from the mesh. */
export interface RemovalView extends Removal {
  /** What it was called here; null where it was never met. */
  name: string | null
}

/**
 * This node among the others: an identity, a key that all of a mesh share,
 * connections to every member that are kept up, channels over them, and what
 * each says of itself.
 */
export class Mesh implements AsyncDisposable {
  readonly name: string
  readonly #components: MeshComponents
  readonly #init: MeshInit
  readonly #handlers = new Map<string, { handler: ChannelHandler; limits: HandlerLimits }>()
  readonly #events: MeshEvents = new EventEmitter()
  #running: MeshParts | null = null

  constructor(components: MeshComponents, init: MeshInit) {
    this.name = init.name
    this.#components = components
    this.#init = init
  }

  /**
   * Resolves when this node listens; members are dialled in the background.
   *
   * @throws MeshError TOKEN_MALFORMED, MESH_ALREADY_JOINED, KEY_FILE_DAMAGED, BOOTSTRAP_INVALID, LISTEN_FAILED
   */
  async start(): Promise<void> {
    if (this.#running !== null) return
    const serve: Parameters<typeof startParts>[0]['serve'] = async ({ node, channels }) => {
      for (const [protocol, { handler, limits }] of this.#handlers) {
        await channels.serve(node, protocol, handler, limits)
      }
    }
    this.#running = await startParts({ ...this.#components, events: this.#events, serve }, this.#init)
  }

  /** Says farewell, resets every channel, then closes the connections. */
  async stop(): Promise<void> {
    const running = this.#running
    this.#running = null
    await running?.[Symbol.asyncDispose]()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }

  /** @throws MeshError MESH_NOT_RUNNING, like all that follow */
  get peerId(): string {
    return this.#started.node.peerId.toString()
  }

  /** What this node says in its own name, and what others do. */
  get signatures(): PeerSignatures {
    return this.#started.signatures
  }

  /** Multiaddrs with this node's peer id, as others can dial it: loopback only where there is nothing else. */
  addresses(): string[] {
    return this.#started.membership.addresses()
  }

  /** Whether none but this machine's own processes can reach it. */
  get isOnOneMachine(): boolean {
    return !this.addresses().some(isReachable)
  }

  /** What lets another node in: the mesh key, and where to find this node. A secret. */
  token(): string {
    return encodeJoinToken(this.#started.meshKey, this.addresses())
  }

  /** All nodes of the mesh that this one has met, itself first. */
  members(): MemberView[] {
    return this.#started.membership.views()
  }

  /**
   * @param ref - a node's name or peer id
   * @returns its peer id
   * @throws MeshError PEER_NOT_FOUND, PEER_AMBIGUOUS, PEER_REMOVED
   */
  resolve(ref: string): string {
    const { book, removals, directory } = this.#started
    removals.requireMember(ref)
    try {
      return book.resolve(ref, directory.views())
    } catch (error) {
      // A name that nobody has any more.
      for (const peerId of removals.named(ref)) removals.requireMember(peerId)
      throw error
    }
  }

  /**
   * Removes a node from the mesh, for good: cut off here, and wherever this
   * node may command as word of it spreads. One that is removed already stays
   * so as it was.
   *
   * @param ref - a node's name or peer id, or the peer id of one that was never here
   * @throws MeshError PEER_NOT_FOUND, PEER_AMBIGUOUS, PEER_IS_SELF, TOO_MANY_REMOVALS
   */
  async remove(ref: string): Promise<RemovalView> {
    const { book, removals, membership, directory } = this.#started
    const peerId = this.#toRemove(ref)
    const known = removals.get(peerId)
    const name = book.get(peerId)?.name ?? directory.get(peerId)?.name ?? ''
    const removal = known ?? (await removals.remove(peerId, { name, atMs: Date.now() }))
    if (known === undefined) await membership.spread(removal)
    const { removedBy, atMs } = removal
    return { peerId, name: removal.name || null, removedBy, atMs }
  }

  /**
   * @param ref - a node's name or peer id
   * @returns the round trip in milliseconds and fractions
   * @throws MeshError PEER_NOT_FOUND, PEER_AMBIGUOUS, PEER_UNREACHABLE
   */
  async ping(ref: string, { signal }: { signal: AbortSignal }): Promise<number> {
    const { membership } = this.#started
    const peer = this.resolve(ref)
    return peer === this.peerId ? 0 : membership.ping(peer, signal)
  }

  /**
   * Over the connection that is there; dials only if there is none.
   *
   * @param peer - peer id
   * @param signal - for the opening; the channel outlives it
   * @throws MeshError PEER_UNREACHABLE, PROTOCOL_UNSUPPORTED
   */
  async open(peer: string, protocol: string, signal: AbortSignal): Promise<Channel> {
    const { membership, channels } = this.#started
    return channels.open(await membership.dialer.connect(peer, signal), protocol, signal)
  }

  /**
   * Dials now, so that nobody has to later.
   *
   * @param peer - peer id
   * @throws MeshError PEER_UNREACHABLE
   */
  async connect(peer: string, signal: AbortSignal): Promise<void> {
    await this.#started.membership.dialer.connect(peer, signal)
  }

  /**
   * Keeps connections up to nodes that are dialled soon otherwise. Members have
   * one in any case; in a mesh of more than 256, most nodes are none. Harmless
   * while it isn't running.
   *
   * @param peerIds - the likeliest first, instead of those given before; 16 beside members
   */
  keepWarm(peerIds: readonly string[]): void {
    this.#running?.membership.keepWarm(peerIds)
  }

  /** Serves channels that peers open for `protocol`, from now or from the start on. */
  async handle(protocol: string, handler: ChannelHandler, limits: HandlerLimits = {}): Promise<void> {
    this.#handlers.set(protocol, { handler, limits })
    if (this.#running !== null)
      await this.#running.channels.serve(this.#running.node, protocol, handler, limits)
  }

  /** @returns what ends it */
  onMember(listener: (event: MemberEvent) => void): () => void {
    this.#events.on('member', listener)
    return () => this.#events.off('member', listener)
  }

  /** Something that others choose this node by has changed: they hear of it at once. Harmless while it isn't running. */
  announce(): void {
    this.#running?.announcements.changed()
  }

  /** All nodes of the mesh that are heard of, this one first. */
  directory(): NodeView[] {
    return this.#started.directory.views()
  }

  /** VMs of nodes that fell silent less than an hour ago, and that were not seen since. */
  lostVms(): LostVm[] {
    return this.#started.directory.lostVms()
  }

  /**
   * Who announced a template: the nearest connected node first, those that
   * aren't connected last.
   *
   * @returns peer ids, this node's not among them
   */
  announcersOf(id: TemplateId): string[] {
    const { directory, membership } = this.#started
    const { listed, probable } = directory.providers(id)
    return nearestFirst([...listed, ...probable], membership)
  }

  /**
   * Who has a template: whoever announced it; only if nobody did, whom the
   * provider table finds, which may take FIND_TIMEOUT_MS.
   *
   * @returns peer ids, this node's not among them
   */
  async providersOf(id: TemplateId, { signal }: { signal: AbortSignal }): Promise<string[]> {
    const { membership, records } = this.#started
    const announced = this.announcersOf(id)
    // A table of nobody's makes its query wait for somebody.
    if (announced.length > 0 || !this.members().some(({ connected, self }) => connected && !self))
      return announced
    const found = (await records.find(id, signal)).filter(({ peerId }) => peerId !== this.peerId)
    for (const { peerId, addresses } of found) membership.suggest(peerId, addresses)
    return nearestFirst(
      found.map(({ peerId }) => peerId),
      membership,
    )
  }

  /**
   * All that a node holds, asked of it; takes at most INVENTORY_TIMEOUT_MS and a dial.
   *
   * @param peer - peer id
   * @throws MeshError PEER_UNREACHABLE, PROTOCOL_UNSUPPORTED, CHANNEL_RESET; WireError; the signal's reason
   */
  async inventoryOf(peer: string, { signal }: { signal: AbortSignal }): Promise<NodeInventory> {
    if (peer === this.peerId) return (this.#components.inventory ?? (() => NO_INVENTORY))()
    const channel = await this.open(peer, INVENTORY_PROTOCOL, signal)
    return fetchInventory(channel, AbortSignal.any([signal, AbortSignal.timeout(INVENTORY_TIMEOUT_MS)]))
  }

  /** @returns what ends it */
  onDirectory(listener: (event: NodeEvent) => void): () => void {
    this.#events.on('directory', listener)
    return () => this.#events.off('directory', listener)
  }

  #toRemove(ref: string): string {
    try {
      return this.resolve(ref)
    } catch (error) {
      if (!(error instanceof MeshError)) throw error
      if (error.code === 'PEER_REMOVED') return String(error.details.peer)
      if (error.code === 'PEER_NOT_FOUND' && isPeerId(ref)) return ref
      throw error
    }
  }

  get #started(): MeshParts {
    if (this.#running === null) throw new MeshError('MESH_NOT_RUNNING', 'the mesh is not running')
    return this.#running
  }
}

/** Who isn't connected, or was not measured yet, comes last, in the order given. */
function nearestFirst(peerIds: readonly string[], membership: Membership): string[] {
  const ranked = [...new Set(peerIds)].map((peerId) => {
    const isConnected = membership.dialer.existing(peerId) !== undefined
    const rttMs = membership.rttMs(peerId) ?? Number.MAX_VALUE
    return { peerId, distance: isConnected ? rttMs : Number.POSITIVE_INFINITY }
  })
  return ranked
    .sort((a, b) => (a.distance === b.distance ? 0 : a.distance - b.distance))
    .map(({ peerId }) => peerId)
}
