import { EventEmitter } from 'node:events'
import type { Libp2p, PeerInfo, PrivateKey } from '@libp2p/interface'
import { multiaddr } from '@multiformats/multiaddr'
import type { Level } from 'level'
import type { NodeFacts, NodeInventory, NodeView } from '../domain/node.ts'
import type { TemplateId } from '../domain/template.ts'
import type { Channel, ChannelHandler } from '../wire/channel.ts'
import { type DialableAddress, dialableAddress, dialableAddresses, isLoopback } from './address.ts'
import { Announcements, meshNowMs } from './announcements.ts'
import { Channels, type HandlerLimits } from './channels.ts'
import { Directory, type NodeEvent } from './directory.ts'
import { MeshError } from './errors.ts'
import { nextIncarnation } from './incarnation.ts'
import { fetchInventory, INVENTORY_PROTOCOL, INVENTORY_TIMEOUT_MS } from './inventory.ts'
import { decodeJoinToken, encodeJoinToken } from './join-token.ts'
import { loadIdentity, loadMeshKey } from './key-files.ts'
import type { MeshLog } from './log.ts'
import { mdnsTag } from './mdns-tag.ts'
import { MemberBook } from './member-book.ts'
import { type MemberEvent, Membership, type MemberView } from './membership.ts'
import { createNode, type MeshNode, type NodeInit } from './node.ts'
import { type Provider, ProviderRecords } from './provider-records.ts'

export interface MeshComponents {
  /** Members are kept in its sublevel `members`, what announcing needs in `announcer`. */
  db: Level<string, unknown>
  log: MeshLog
  /** What this node says of itself; read some times a minute. Without it: that it is there. */
  facts?: () => NodeFacts | Promise<NodeFacts>
  /** All that it holds, for those who ask. */
  inventory?: () => NodeInventory
}

export interface MeshInit {
  /** What this node calls itself; others may not share it. */
  name: string
  /** Multiaddrs such as `/ip4/0.0.0.0/tcp/0`. */
  listen: readonly string[]
  /** The identity and the mesh key are kept here. */
  dataDir: string
  /** Which mesh to join at the first start, and where; later it may be left out. */
  joinToken?: string
  /** Multiaddrs with peer ids that are dialled for as long as this node runs. */
  bootstrap?: readonly string[]
  /** Whether nodes of this mesh find each other in a LAN; never where only loopback is listened on. Default true. */
  mdns?: boolean
  /** How often a node of a small mesh announces itself; default BEAT_MS. */
  beatMs?: number
}

const NO_FACTS: NodeFacts = { memory: null, load: 0, cpus: 1, qemu: null, templates: [], vms: [] }
const NO_INVENTORY: NodeInventory = { templates: [], vms: [] }

/** What there is only between start and stop. */
interface Running {
  node: Libp2p
  meshKey: Uint8Array
  book: MemberBook
  membership: Membership
  channels: Channels
  directory: Directory
  announcements: Announcements
  records: ProviderRecords
  parts: AsyncDisposableStack
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
  readonly #events = new EventEmitter<{ member: [MemberEvent]; directory: [NodeEvent] }>()
  #running: Running | null = null

  constructor(components: MeshComponents, init: MeshInit) {
    this.name = init.name
    this.#components = components
    this.#init = init
  }

  /**
   * Resolves when this node listens; members are dialled in the background.
   *
   * @throws MeshError TOKEN_MALFORMED, MESH_ALREADY_JOINED, KEY_FILE_DAMAGED, LISTEN_FAILED
   */
  async start(): Promise<void> {
    if (this.#running !== null) return
    const { listen, dataDir, joinToken } = this.#init
    const { db, log } = this.#components
    const bootstrap = (this.#init.bootstrap ?? []).map(bootstrapAddress)
    const token = joinToken === undefined ? null : decodeJoinToken(joinToken)
    const meshKey = await loadMeshKey(dataDir, token?.meshKey ?? null)
    const identity = await loadIdentity(dataDir)
    const isFound = (this.#init.mdns ?? true) && listen.some(isReachable)
    const node = await openNode(identity, {
      meshKey,
      listen,
      ...(isFound ? { mdnsTag: mdnsTag(meshKey) } : {}),
    })
    const book = new MemberBook({ db }, { self: { peerId: node.peerId.toString(), name: this.name } })
    await book.load()
    const channels = new Channels({ log })
    const directory = new Directory({ selfId: node.peerId.toString() })
    const membership = new Membership(
      {
        node,
        book,
        channels,
        directory,
        log,
        onEvent: (event) => this.#events.emit('member', event),
        onHello: (peerId) => announcements.onHello(peerId),
      },
      { name: this.name },
    )
    const records = new ProviderRecords({ dht: node.services.dht, log })
    const announcements = await this.#announcements({
      node,
      identity,
      directory,
      channels,
      membership,
      records,
    })

    await using starting = new AsyncDisposableStack()
    const stopped = new MeshError('MESH_NOT_RUNNING', 'this node stops')
    starting.defer(() => node.stop())
    starting.defer(() => channels.stop())
    starting.defer(() => membership.stop(stopped))
    starting.defer(() => records.stop(stopped))
    starting.defer(() => announcements.stop(stopped))
    await membership.prepare()
    await announcements.prepare()
    for (const [protocol, { handler, limits }] of this.#handlers) {
      await channels.serve(node, protocol, handler, limits)
    }
    node.services.mdns?.addEventListener('peer', ({ detail }) => suggestFound(membership, detail))
    await startListening(node, listen)
    await announcements.start()
    membership.start(token?.addresses ?? [], bootstrap)
    this.#running = {
      node,
      meshKey,
      book,
      membership,
      channels,
      directory,
      announcements,
      records,
      parts: starting.move(),
    }
  }

  /** Says farewell, resets every channel, then closes the connections. */
  async stop(): Promise<void> {
    const running = this.#running
    this.#running = null
    await running?.parts.disposeAsync()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }

  /** @throws MeshError MESH_NOT_RUNNING, like all that follow */
  get peerId(): string {
    return this.#started.node.peerId.toString()
  }

  /** Multiaddrs with this node's peer id, as others can dial it: loopback only where there is nothing else. */
  addresses(): string[] {
    return this.#started.membership.addresses()
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
   * @throws MeshError PEER_NOT_FOUND, PEER_AMBIGUOUS
   */
  resolve(ref: string): string {
    const { book, directory } = this.#started
    return book.resolve(ref, directory.views())
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

  /**
   * Who has a template: of the nodes that announced it the nearest connected
   * one first, those that aren't connected last; only if none did, whom the
   * provider table finds.
   *
   * @returns peer ids, this node's not among them
   */
  async providersOf(id: TemplateId, { signal }: { signal: AbortSignal }): Promise<string[]> {
    const { directory, membership, records } = this.#started
    const { listed, probable } = directory.providers(id)
    const announced = [...listed, ...probable]
    if (announced.length > 0) return nearestFirst(announced, membership)
    const found = (await records.find(id, signal)).filter(({ peerId }) => peerId !== this.peerId)
    for (const { peerId, addresses } of found) membership.suggest(peerId, addresses)
    return nearestFirst(
      found.map(({ peerId }: Provider) => peerId),
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

  async #announcements(parts: {
    node: MeshNode
    identity: PrivateKey
    directory: Directory
    channels: Channels
    membership: Membership
    records: ProviderRecords
  }): Promise<Announcements> {
    const { node, identity, directory, channels, membership, records } = parts
    const { db, log, facts = () => NO_FACTS, inventory = () => NO_INVENTORY } = this.#components
    const { beatMs } = this.#init
    return new Announcements(
      {
        node,
        privateKey: identity,
        directory,
        channels,
        dialer: membership.dialer,
        facts,
        inventory,
        log,
        onEvent: (event) => this.#events.emit('directory', event),
        onAnnounced: ({ templates }) => records.set(templates),
      },
      {
        name: this.name,
        incarnation: await nextIncarnation(db, meshNowMs()),
        addresses: () => membership.addresses(),
        ...(beatMs === undefined ? {} : { beatMs }),
      },
    )
  }

  get #started(): Running {
    if (this.#running === null) throw new MeshError('MESH_NOT_RUNNING', 'the mesh is not running')
    return this.#running
  }
}

async function openNode(identity: PrivateKey, init: NodeInit): Promise<MeshNode> {
  try {
    return await createNode(identity, init)
  } catch (cause) {
    throw listenFailed(init.listen, cause)
  }
}

/** Whether others than this machine's own processes can get there; what is no address is for libp2p to refuse. */
function isReachable(address: string): boolean {
  try {
    return !isLoopback(multiaddr(address))
  } catch {
    return false
  }
}

function bootstrapAddress(text: string): DialableAddress {
  const address = dialableAddress(text)
  if (address !== null) return address
  throw new MeshError('BOOTSTRAP_INVALID', `not an address to dial: ${text}`, { details: { address: text } })
}

function suggestFound(membership: Membership, { id, multiaddrs }: PeerInfo): void {
  const peerId = id.toString()
  membership.suggest(peerId, dialableAddresses(multiaddrs.map(String), peerId))
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

async function startListening(node: Libp2p, listen: readonly string[]): Promise<void> {
  try {
    await node.start()
  } catch (cause) {
    throw listenFailed(listen, cause)
  }
}

function listenFailed(listen: readonly string[], cause: unknown): MeshError {
  return new MeshError('LISTEN_FAILED', `can't listen on ${listen.join(', ')}: is the port in use?`, {
    cause,
    details: { listen },
  })
}
