import { EventEmitter } from 'node:events'
import type { Libp2p } from '@libp2p/interface'
import type { Level } from 'level'
import type { Channel, ChannelHandler } from '../wire/channel.ts'
import { Channels, type HandlerLimits } from './channels.ts'
import { MeshError } from './errors.ts'
import { decodeJoinToken, encodeJoinToken } from './join-token.ts'
import { loadIdentity, loadMeshKey } from './key-files.ts'
import type { MeshLog } from './log.ts'
import { MemberBook } from './member-book.ts'
import { type MemberEvent, Membership, type MemberView } from './membership.ts'
import { createNode } from './node.ts'

export interface MeshComponents {
  /** Members are kept in its sublevel `members`. */
  db: Level<string, unknown>
  log: MeshLog
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
}

/** What there is only between start and stop. */
interface Running {
  node: Libp2p
  meshKey: Uint8Array
  book: MemberBook
  membership: Membership
  channels: Channels
  parts: AsyncDisposableStack
}

/**
 * This node among the others: an identity, a key that all of a mesh share,
 * connections to every member that are kept up, and channels over them.
 */
export class Mesh implements AsyncDisposable {
  readonly name: string
  readonly #components: MeshComponents
  readonly #init: MeshInit
  readonly #handlers = new Map<string, { handler: ChannelHandler; limits: HandlerLimits }>()
  readonly #events = new EventEmitter<{ member: [MemberEvent] }>()
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
    const token = joinToken === undefined ? null : decodeJoinToken(joinToken)
    const meshKey = await loadMeshKey(dataDir, token?.meshKey ?? null)
    const node = await openNode(dataDir, meshKey, listen)
    const book = new MemberBook({ db }, { self: { peerId: node.peerId.toString(), name: this.name } })
    await book.load()
    const channels = new Channels({ log })
    const membership = new Membership(
      { node, book, channels, log, onEvent: (event) => this.#events.emit('member', event) },
      { name: this.name },
    )

    await using starting = new AsyncDisposableStack()
    const stopped = new MeshError('MESH_NOT_RUNNING', 'this node stops')
    starting.defer(() => node.stop())
    starting.defer(() => channels.stop())
    starting.defer(() => membership.stop(stopped))
    await membership.prepare()
    for (const [protocol, { handler, limits }] of this.#handlers) {
      await channels.serve(node, protocol, handler, limits)
    }
    await startListening(node, listen)
    membership.start(token?.addresses ?? [])
    this.#running = { node, meshKey, book, membership, channels, parts: starting.move() }
  }

  /** Resets every channel, then closes the connections. */
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
    return this.#started.book.resolve(ref)
  }

  /**
   * @param ref - a node's name or peer id
   * @returns the round trip in milliseconds and fractions
   * @throws MeshError PEER_NOT_FOUND, PEER_AMBIGUOUS, PEER_UNREACHABLE
   */
  async ping(ref: string, { signal }: { signal: AbortSignal }): Promise<number> {
    const { membership, book } = this.#started
    const peer = book.resolve(ref)
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

  get #started(): Running {
    if (this.#running === null) throw new MeshError('MESH_NOT_RUNNING', 'the mesh is not running')
    return this.#running
  }
}

async function openNode(dataDir: string, meshKey: Uint8Array, listen: readonly string[]): Promise<Libp2p> {
  const identity = await loadIdentity(dataDir)
  try {
    return await createNode(identity, { meshKey, listen })
  } catch (cause) {
    throw listenFailed(listen, cause)
  }
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
