import { setInterval } from 'node:timers/promises'
import type { Connection, Libp2p } from '@libp2p/interface'
import type { Multiaddr } from '@multiformats/multiaddr'
import { errorBody } from '../domain/errors.ts'
import type { Channel } from '../wire/channel.ts'
import type { Hello } from '../wire/mesh-messages.ts'
import { advertised, type DialableAddress, dialableAddresses } from './address.ts'
import type { Channels } from './channels.ts'
import { cutConnections } from './connection-guard.ts'
import { Dialer } from './dialer.ts'
import type { Directory } from './directory.ts'
import { encodeHello, exchangeHellos, HELLO_PROTOCOL, HELLO_TIMEOUT_MS } from './hello.ts'
import type { MeshLog } from './log.ts'
import type { MemberBook } from './member-book.ts'
import { NEWS_INTERVAL_MS, NewsRounds } from './news-rounds.ts'
import { measureRttMs } from './ping.ts'
import { Redialer } from './redialer.ts'
import type { KeptRemoval, Removals } from './removals.ts'
import { Tasks } from './tasks.ts'
import { Whereabouts } from './whereabouts.ts'

/** Two who hear of each other: one dials, the other one waits so long for it. */
const YIELD_MS = 500
const RTT_INTERVAL_MS = 60_000
const MAX_HELLO_CHANNELS = 8
/** News are two a second; a mesh in which everybody joins at once is more, for a moment. */
const HELLO_RATE = { burst: 64, perSecond: 16 }
/** What a node that is removed has to hear of it in. */
const TELL_REMOVED_MS = 1_000

/** A node of the mesh, as it is shown to people and scripts. */
export interface MemberView {
  peerId: string
  name: string
  addresses: string[]
  /** Whether there is a connection now; a member that is away stays a member. */
  connected: boolean
  /** Round trip when it was last measured; null before the first time and while away. */
  rttMs: number | null
  self: boolean
}

export interface MemberEvent {
  /** `removed-from-mesh`: this node itself. */
  kind: 'member-joined' | 'member-connected' | 'member-disconnected' | 'member-removed' | 'removed-from-mesh'
  peerId: string
  name: string
  /** Peer id of who removed it. */
  by?: string
}

export interface MembershipComponents {
  node: Libp2p
  book: MemberBook
  removals: Removals
  channels: Channels
  /** Knows addresses of nodes that this one has not met. */
  directory: Directory
  log: MeshLog
  onEvent: (event: MemberEvent) => void
  /** After each hello of a peer that is connected. */
  onHello: (peerId: string) => void
  /** A node is no member any more. */
  onRemoved: (peerId: string) => void
}

/**
 * Who belongs to the mesh. Two nodes that connect say hello: their names and
 * addresses, whom they have met, and who was removed. A name counts only from
 * its bearer; what is said of others is a hint whom to dial, and a removal what
 * its signature says. Who is removed is cut off at once, never dialled and
 * never let in again (see node.ts for the gate).
 */
export class Membership {
  readonly dialer: Dialer
  readonly #node: Libp2p
  readonly #book: MemberBook
  readonly #removals: Removals
  readonly #channels: Channels
  readonly #log: MeshLog
  readonly #directory: Directory
  readonly #onEvent: (event: MemberEvent) => void
  readonly #onHelloOf: (peerId: string) => void
  readonly #onRemoved: (peerId: string) => void
  readonly #name: string
  readonly #redialer: Redialer
  readonly #tasks = new Tasks()
  readonly #whereabouts: Whereabouts
  readonly #news = new NewsRounds()
  /** Members whose connection has been reported. */
  readonly #present = new Set<string>()
  readonly #rttMs = new Map<string, number>()

  constructor(components: MembershipComponents, init: { name: string }) {
    const { node, book, removals, channels } = components
    this.#node = node
    this.#book = book
    this.#removals = removals
    this.#channels = channels
    this.#directory = components.directory
    this.#log = components.log
    this.#onEvent = components.onEvent
    this.#onHelloOf = components.onHello
    this.#onRemoved = components.onRemoved
    this.#name = init.name
    this.#whereabouts = new Whereabouts(components)
    this.dialer = new Dialer({ node, removals, addressesOf: (peerId) => this.#whereabouts.of(peerId) })
    this.#redialer = new Redialer({
      connect: (peerId, signal) => this.dialer.connect(peerId, signal),
      isConnected: (peerId) => this.dialer.existing(peerId) !== undefined,
      onForget: (peerId) => this.#whereabouts.forgetHints(peerId),
    })
  }

  /** Before the node starts: nobody who connects is missed. */
  async prepare(): Promise<void> {
    await this.#channels.serve(
      this.#node,
      HELLO_PROTOCOL,
      (channel, signal) => this.#sayHello(channel, signal),
      { maxInboundStreams: MAX_HELLO_CHANNELS, rate: HELLO_RATE },
    )
    // Whoever dialled opens; the other side answers.
    this.#node.addEventListener('connection:open', ({ detail: connection }) => {
      if (connection.status === 'open' && connection.direction === 'outbound') this.#greet(connection)
    })
    this.#node.addEventListener('peer:disconnect', ({ detail }) => this.#onDisconnect(detail.toString()))
  }

  /**
   * @param contacts - of a join token: dialled with the members that are known already
   * @param bootstrap - nodes that are dialled again and again, whether they were ever met or not
   */
  start(contacts: readonly DialableAddress[], bootstrap: readonly DialableAddress[]): void {
    for (const { peerId, address } of contacts) this.#hint(peerId, [address], 0)
    for (const { peerId, address } of bootstrap) {
      if (peerId === this.#node.peerId.toString() || this.#removals.has(peerId)) continue
      this.#whereabouts.bootstrap({ peerId, address })
      this.#redialer.keep(peerId)
    }
    for (const { peerId } of this.#book.all()) this.#redialer.keep(peerId)
    const own = this.#removals.get(this.#node.peerId.toString())
    if (own !== undefined) this.#reportOwn(own)
    this.#redialer.start()
    this.#every(NEWS_INTERVAL_MS, () => this.#gossipIfDue())
    this.#every(RTT_INTERVAL_MS, () => {
      for (const peerId of this.#present) this.#measure(peerId)
    })
  }

  async stop(reason: Error): Promise<void> {
    await Promise.all([this.#redialer.stop(reason), this.#tasks.stop(reason)])
  }

  /** This node first, then by name. */
  views(): MemberView[] {
    const self = {
      peerId: this.#node.peerId.toString(),
      name: this.#name,
      addresses: this.addresses(),
      connected: true,
      rttMs: 0,
      self: true,
    }
    const others = this.#book.all().map((record) => ({
      ...record,
      connected: this.dialer.existing(record.peerId) !== undefined,
      rttMs: this.#rttMs.get(record.peerId) ?? null,
      self: false,
    }))
    return [
      self,
      ...others.toSorted((a, b) => a.name.localeCompare(b.name) || a.peerId.localeCompare(b.peerId)),
    ]
  }

  /** What others dial to find this node. */
  addresses(): string[] {
    return advertised(this.#node.getMultiaddrs()).map(String)
  }

  /**
   * Dials if it has to.
   *
   * @returns the round trip in milliseconds, of which a dial is no part
   * @throws MeshError PEER_UNREACHABLE
   */
  async ping(peerId: string, signal: AbortSignal): Promise<number> {
    const connection = await this.dialer.connect(peerId, signal)
    const rttMs = await measureRttMs(connection, signal)
    this.#rttMs.set(peerId, rttMs)
    return rttMs
  }

  /** The last round trip to a peer; null when there was none, or it is away. */
  rttMs(peerId: string): number | null {
    return this.#rttMs.get(peerId) ?? null
  }

  /** Somebody is said to be there, by the LAN or the provider table: dialled like whom a member names. */
  suggest(peerId: string, addresses: readonly Multiaddr[]): void {
    this.#hint(peerId, addresses, this.#node.peerId.toString() < peerId ? 0 : YIELD_MS)
  }

  /** Nodes that VMs of this one may go to next, the likeliest first: connected to although they may be no members. */
  keepWarm(peerIds: readonly string[]): void {
    const self = this.#node.peerId.toString()
    this.#redialer.keepWarm(peerIds.filter((peerId) => peerId !== self && !this.#removals.has(peerId)))
  }

  /** This node has removed another one: that one is told, then cut off, then the others are told. */
  async spread(removal: KeptRemoval): Promise<void> {
    const connection = this.dialer.existing(removal.peerId)
    if (connection !== undefined) {
      await this.#tellRemoved(connection).catch((error: unknown) => {
        this.#log.debug({ peer: removal.peerId, ...errorBody(error) }, 'a removed node was not told')
      })
    }
    await this.#expel(removal)
    for (const peerId of this.#present) {
      const present = this.dialer.existing(peerId)
      if (present !== undefined) this.#greet(present)
    }
  }

  async #tellRemoved(connection: Connection): Promise<void> {
    const signal = AbortSignal.timeout(TELL_REMOVED_MS)
    const channel = await this.#channels.open(connection, HELLO_PROTOCOL, signal)
    await exchangeHellos(channel, { own: this.#ownHello(), judge: async () => {} }, signal)
    // It ends its side once it has read ours.
    await channel.receive({ maxBytes: 0, signal })
  }

  async #expel({ peerId, name, removedBy }: KeptRemoval): Promise<void> {
    this.#redialer.forget(peerId)
    this.#whereabouts.forget(peerId)
    cutConnections(this.#node, peerId)
    this.#onDisconnect(peerId)
    // Whoever hears of it doesn't find it in the book any more.
    const removed = this.#book.remove(peerId)
    this.#onEvent({ kind: 'member-removed', peerId, name, by: removedBy })
    this.#onRemoved(peerId)
    this.#news.begin(this.#book.all().length)
    await removed
  }

  #reportOwn({ peerId, removedBy, atMs }: KeptRemoval): void {
    this.#log.warn({ by: removedBy, atMs }, 'this node was removed from its mesh: others refuse it')
    this.#onEvent({ kind: 'removed-from-mesh', peerId, name: this.#name, by: removedBy })
  }

  #greet(connection: Connection): void {
    const peer = connection.remotePeer.toString()
    this.#tasks.run(
      async (signal) => {
        const channel = await this.#channels.open(connection, HELLO_PROTOCOL, bounded(signal))
        await this.#sayHello(channel, signal)
      },
      (error) => this.#log.warn({ peer, ...errorBody(error) }, 'no hello from a peer'),
    )
  }

  async #sayHello(channel: Channel, signal: AbortSignal): Promise<void> {
    const exchange = {
      own: this.#ownHello(),
      judge: (hello: Hello) => this.#takeRemovals(channel.peer, hello),
    }
    await this.#onHello(channel.peer, await exchangeHellos(channel, exchange, bounded(signal)))
  }

  #ownHello(): Uint8Array {
    return encodeHello({
      name: this.#name,
      addresses: this.addresses(),
      members: this.#membersToTell(),
      removals: this.#removals.envelopes(),
    })
  }

  async #takeRemovals(from: string, { removals }: Hello): Promise<void> {
    const nameOf = (peerId: string) => this.#book.get(peerId)?.name ?? this.#directory.get(peerId)?.name ?? ''
    for await (const removal of this.#removals.offer(removals, nameOf)) {
      if (removal.peerId === this.#node.peerId.toString()) this.#reportOwn(removal)
      else await this.#expel(removal)
    }
    this.#removals.requireMember(from)
  }

  /** Those who are there in front: a full hello leaves out the others. */
  #membersToTell() {
    return this.#book
      .all()
      .toSorted((a, b) => Number(this.#present.has(b.peerId)) - Number(this.#present.has(a.peerId)))
  }

  async #onHello(peerId: string, { name, addresses, members }: Hello): Promise<void> {
    const own = dialableAddresses(addresses, peerId).map(String)
    const joined = await this.#book.introduce({ peerId, name, addresses: own })
    // Removed meanwhile, by the word of another one.
    if (this.#removals.has(peerId)) return this.#book.remove(peerId)
    this.#onHelloOf(peerId)
    if (joined === null) {
      this.#log.warn({ peer: peerId, name }, 'the mesh is full: a node was not taken as a member')
      return
    }
    this.#whereabouts.forgetHints(peerId)
    this.#redialer.keep(peerId)
    if (joined) {
      this.#onEvent({ kind: 'member-joined', peerId, name })
      this.#news.begin(this.#book.all().length)
    }
    this.#onConnected(peerId, name)
    for (const member of members) {
      this.suggest(member.peerId, dialableAddresses(member.addresses, member.peerId))
    }
  }

  #onConnected(peerId: string, name: string): void {
    // A hello may be worked on when its connection has gone already.
    if (this.#present.has(peerId) || this.dialer.existing(peerId) === undefined) return
    this.#present.add(peerId)
    this.#onEvent({ kind: 'member-connected', peerId, name })
    this.#measure(peerId)
  }

  #onDisconnect(peerId: string): void {
    this.#rttMs.delete(peerId)
    this.#redialer.lost(peerId)
    if (!this.#present.delete(peerId)) return
    this.#onEvent({ kind: 'member-disconnected', peerId, name: this.#book.get(peerId)?.name ?? '' })
  }

  #hint(peerId: string, addresses: readonly Multiaddr[], waitMs: number): void {
    if (peerId === this.#node.peerId.toString() || addresses.length === 0) return
    if (this.#removals.has(peerId)) return
    if (this.#present.has(peerId) || !this.#redialer.hint(peerId, waitMs)) return
    this.#whereabouts.hint(peerId, addresses)
  }

  #gossipIfDue(): void {
    if (!this.#news.take(performance.now())) return
    const present = [...this.#present]
    const peer = present[Math.floor(Math.random() * present.length)]
    const connection = peer === undefined ? undefined : this.dialer.existing(peer)
    if (connection !== undefined) this.#greet(connection)
  }

  #measure(peerId: string): void {
    this.#tasks.run(
      async (signal) => {
        await this.ping(peerId, bounded(signal))
      },
      (error) => this.#log.debug({ peer: peerId, ...errorBody(error) }, 'no round trip measured'),
    )
  }

  #every(intervalMs: number, work: () => void): void {
    this.#tasks.run(
      async (signal) => {
        for await (const _ of setInterval(intervalMs, undefined, { signal, ref: false })) work()
      },
      // Ends only at its signal.
      () => undefined,
    )
  }
}

function bounded(signal: AbortSignal): AbortSignal {
  return AbortSignal.any([signal, AbortSignal.timeout(HELLO_TIMEOUT_MS)])
}
