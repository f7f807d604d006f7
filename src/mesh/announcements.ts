import { setInterval, setTimeout as sleep } from 'node:timers/promises'
import type { PrivateKey } from '@libp2p/interface'
import { steadyNowMs } from '../domain/clock.ts'
import { errorBody } from '../domain/errors.ts'
import { NO_FACTS, type NodeFacts, type NodeInventory } from '../domain/node.ts'
import { parseEnvelope, sealAnnouncement } from './announcement-envelope.ts'
import { AnnouncementIntake } from './announcement-intake.ts'
import { Announcer, difference } from './announcer.ts'
import type { Channels } from './channels.ts'
import type { Dialer } from './dialer.ts'
import type { Directory, NodeEvent } from './directory.ts'
import {
  DIRECTORY_PROTOCOL,
  DIRECTORY_TIMEOUT_MS,
  fetchDirectory,
  serveDirectory,
} from './directory-exchange.ts'
import { ANNOUNCE_TOPIC, GOSSIP_DEGREE, joinTopic } from './gossip.ts'
import { INVENTORY_PROTOCOL, serveInventory } from './inventory.ts'
import type { MeshLog } from './log.ts'
import type { MeshNode } from './node.ts'
import { Tasks } from './tasks.ts'

/** What a farewell has to leave in: half a round trip of a slow link. */
const FAREWELL_MS = 100

/** Reading them costs some file reads per VM. */
const FACTS_INTERVAL_MS = 5_000
const EXPIRY_INTERVAL_MS = 500
/** Of one peer at a time. */
const MAX_INBOUND_EXCHANGES = 2
/** A directory is asked for after a hello, where something was missed. */
const DIRECTORY_RATE = { burst: 16, perSecond: 2 }
/** Each command that is given elsewhere may ask for one. */
const INVENTORY_RATE = { burst: 128, perSecond: 32 }
/**
 * Directories asked for at the same time. A node that meets a whole mesh at
 * once asks the first it greets, and by the time that has answered it knows
 * the others: that is why they are asked one after the other, and why each is
 * looked up again when its turn comes.
 */
const MAX_PARALLEL_FETCHES = 2
/** setTimeout takes 31 bits; a beat is far below. */
const MAX_DELAY_MS = 2 ** 31 - 1

export interface AnnouncementsComponents {
  node: MeshNode
  privateKey: PrivateKey
  directory: Directory
  channels: Channels
  dialer: Dialer
  facts: () => NodeFacts | Promise<NodeFacts>
  inventory: () => NodeInventory
  log: MeshLog
  onEvent: (event: NodeEvent) => void
  /** Told of each announcement that this node made. */
  onAnnounced: (facts: NodeFacts) => void
}

export interface AnnouncementsInit {
  name: string
  incarnation: number
  /** What others dial. */
  addresses: () => string[]
  beatMs?: number
}

/**
 * What this node tells the others, and what it hears of them: gossip, and
 * directories handed over.
 *
 *     changed, or a beat is over    ->  facts, sealed  ->  gossip to 6 peers, who pass it on
 *     gossip, directories           ->  intake         ->  directory
 *     a hello of a peer of whom something was missed   ->  its directory is asked for
 *
 * What a join costs: the joining node asks one or two of those that it greets
 * and gets each announcement once, some 600 bytes per node of the mesh; each
 * member that it greets asks it back, 8 bytes for each node that it knows, and
 * gets the one announcement that it lacks. So N nodes that start at the same
 * moment exchange N² small requests, one on each connection, beside the
 * handshake that the connection has cost anyway; not N² directories.
 */
export class Announcements {
  readonly #components: AnnouncementsComponents
  readonly #init: AnnouncementsInit
  readonly #announcer: Announcer
  readonly #intake: AnnouncementIntake
  readonly #tasks = new Tasks()
  /** Peers whose directories are to be asked for. */
  readonly #missed = new Set<string>()
  #fetches = 0
  #sequence = 0
  /** Peers that the last one went to. */
  #reached = 0
  #announced: NodeFacts | null = null
  #isAnnouncing = false
  #isRunning = false
  #timer: NodeJS.Timeout | undefined

  constructor(components: AnnouncementsComponents, init: AnnouncementsInit) {
    this.#components = components
    this.#init = init
    this.#announcer = new Announcer(init.beatMs === undefined ? {} : { beatMs: init.beatMs })
    this.#intake = new AnnouncementIntake({ directory: components.directory, onEvent: components.onEvent })
  }

  /** Before the node starts: nobody who asks is turned away. */
  async prepare(): Promise<void> {
    const { node, channels, directory, inventory } = this.#components
    const maxInboundStreams = MAX_INBOUND_EXCHANGES
    await channels.serve(node, DIRECTORY_PROTOCOL, serveDirectory(directory, steadyNowMs), {
      maxInboundStreams,
      rate: DIRECTORY_RATE,
    })
    await channels.serve(node, INVENTORY_PROTOCOL, serveInventory(inventory), {
      maxInboundStreams,
      rate: INVENTORY_RATE,
    })
  }

  /** Once the node listens. Resolves when it has said its first word. */
  async start(): Promise<void> {
    const { gossip } = this.#components.node.services
    this.#isRunning = true
    gossip.addEventListener('subscription-change', () => this.#onSubscription())
    joinTopic(gossip, (data, from) => this.#intake.offer(data, { from, nowMs: steadyNowMs(), ageMs: 0 }))
    await this.#announce()
    this.#arm()
    this.#every(FACTS_INTERVAL_MS, () => this.#compare())
    this.#every(EXPIRY_INTERVAL_MS, async () => {
      for (const event of this.#components.directory.expire(steadyNowMs())) this.#components.onEvent(event)
    })
  }

  /** Something that others choose by has changed. */
  changed(): void {
    this.#announcer.changed(steadyNowMs())
    this.#arm()
  }

  /** A peer said hello: if something of it was missed, so may have been more. */
  onHello(peerId: string): void {
    if (!this.#components.directory.isOverdue(peerId, steadyNowMs())) return
    this.#missed.add(peerId)
    this.#fetchNext()
  }

  /** Says farewell, so that others needn't wait for silence. */
  async stop(reason: Error): Promise<void> {
    const wasRunning = this.#isRunning
    this.#isRunning = false
    clearTimeout(this.#timer)
    await this.#tasks.stop(reason)
    if (!wasRunning) return
    try {
      await this.#publish(await this.#seal(NO_FACTS, 0))
      // Published is not yet sent: connections that are closed at once may take it with them.
      await sleep(FAREWELL_MS)
    } catch (error) {
      this.#components.log.debug(errorBody(error), 'no farewell')
    }
  }

  #arm(): void {
    if (!this.#isRunning || this.#isAnnouncing) return
    clearTimeout(this.#timer)
    const delayMs = Math.min(Math.max(0, this.#announcer.dueAtMs - steadyNowMs()), MAX_DELAY_MS)
    const announce = () =>
      this.#tasks.run(
        () => this.#announce(),
        () => undefined,
      )
    this.#timer = setTimeout(announce, delayMs).unref()
  }

  /** Never fails: what can't be said now is said at the next beat. */
  async #announce(): Promise<void> {
    const { directory, facts: readFacts, log, onAnnounced } = this.#components
    this.#isAnnouncing = true
    try {
      const { validMs } = this.#announcer.begin(steadyNowMs(), directory.size)
      const facts = await readFacts()
      const bytes = await this.#seal(facts, validMs)
      directory.takeOwn(parseEnvelope(bytes), facts, steadyNowMs())
      this.#announced = facts
      await this.#publish(bytes)
      onAnnounced(facts)
    } catch (error) {
      log.warn(errorBody(error), 'this node could not be announced')
    } finally {
      this.#isAnnouncing = false
      this.#arm()
    }
  }

  async #seal(facts: NodeFacts, validMs: number): Promise<Uint8Array> {
    const { name, incarnation, addresses } = this.#init
    const sequence = ++this.#sequence
    const content = { incarnation, sequence, validMs, name, addresses: addresses(), facts }
    return sealAnnouncement(content, this.#components.privateKey)
  }

  async #publish(bytes: Uint8Array): Promise<void> {
    const { recipients } = await this.#components.node.services.gossip.publish(ANNOUNCE_TOPIC, bytes)
    this.#reached = recipients.length
  }

  /** What went to few since there were few goes to those who come: at most as often as the overlay has links. */
  #onSubscription(): void {
    const { gossip } = this.#components.node.services
    if (this.#reached >= GOSSIP_DEGREE || gossip.getSubscribers(ANNOUNCE_TOPIC).length <= this.#reached)
      return
    this.changed()
  }

  async #compare(): Promise<void> {
    const { directory, facts: readFacts } = this.#components
    if (this.#announced === null || this.#isAnnouncing) return
    const kind = difference(this.#announced, await readFacts())
    if (kind === 'changed') this.#announcer.changed(steadyNowMs())
    if (kind === 'drifted') this.#announcer.drifted(steadyNowMs(), directory.size)
    if (kind !== 'none') this.#arm()
  }

  #fetchNext(): void {
    while (this.#fetches < MAX_PARALLEL_FETCHES) {
      const [peer] = this.#missed
      if (peer === undefined) return
      this.#missed.delete(peer)
      if (!this.#components.directory.isOverdue(peer, steadyNowMs())) continue
      this.#fetches++
      this.#tasks.run(
        (signal) => this.#fetch(peer, signal).finally(() => this.#fetched()),
        (error) => this.#components.log.debug({ peer, ...errorBody(error) }, 'no directory of a peer'),
      )
    }
  }

  #fetched(): void {
    this.#fetches--
    this.#fetchNext()
  }

  async #fetch(peer: string, signal: AbortSignal): Promise<void> {
    const { channels, dialer, directory, log } = this.#components
    const connection = dialer.existing(peer)
    if (connection === undefined) return
    const bounded = AbortSignal.any([signal, AbortSignal.timeout(DIRECTORY_TIMEOUT_MS)])
    const channel = await channels.open(connection, DIRECTORY_PROTOCOL, bounded)
    const taken = await fetchDirectory(
      channel,
      directory.known(),
      (data, from, ageMs) => this.#intake.offer(data, { from, nowMs: steadyNowMs(), ageMs }),
      bounded,
    )
    log.debug({ peer, taken }, 'took a directory over')
  }

  #every(intervalMs: number, work: () => Promise<void>): void {
    this.#tasks.run(
      async (signal) => {
        for await (const _ of setInterval(intervalMs, undefined, { signal, ref: false })) {
          await work().catch((error: unknown) =>
            this.#components.log.warn(errorBody(error), 'facts of this node could not be read'),
          )
        }
      },
      // Ends only at its signal.
      () => undefined,
    )
  }
}
