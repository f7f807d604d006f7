import { generateKeyPair } from '@libp2p/crypto/keys'
import type { PrivateKey } from '@libp2p/interface'
import type { NodeFacts } from '../../src/domain/node.ts'
import type { TemplateId } from '../../src/domain/template.ts'
import { type ParsedEnvelope, parseEnvelope, sealAnnouncement } from '../../src/mesh/announcement-envelope.ts'
import { Announcer } from '../../src/mesh/announcer.ts'
import { ANNOUNCE_TOPIC, GOSSIP_DEGREE, MAX_GOSSIP_DEGREE } from '../../src/mesh/gossip.ts'
import { someFacts, templateNo, vmNo } from '../support/node-facts.ts'
import { EventQueue } from './event-queue.ts'
import type { RoundTrip } from './round-trips.ts'

/**
 * A mesh of many nodes in one process and in virtual time. When a node
 * announces itself and what it says is the real code: announcer, codec, signed
 * envelope, each checked when it first arrives anywhere. gossipsub's part is a
 * model: links between random nodes, 6 to 8 each, over which a message is
 * passed on once, when it first comes, to all but whom it came from.
 *
 * Left out are ids that gossipsub sends beside messages, none of which grow
 * with the mesh: IHAVE (each second, to 6 peers, the ids of three seconds, some
 * 6 × 34 bytes at 2 announcements a second) and IDONTWANT (34 bytes per link
 * and message of 512 bytes or more, which saves some of the duplicates that
 * are counted here).
 */

/** Beside the announcement: protobuf and length 8, topic, yamux 12, noise 18. */
const FRAME_BYTES = 38 + ANNOUNCE_TOPIC.length
/** Signature, codec and what else a node does before it passes a message on. */
const PROCESSING_MS = 1
const TEMPLATES_PER_NODE = 5
const VMS_PER_NODE = 5
/** Where templates that nobody has at the start begin. */
const FIRST_NEW_TEMPLATE = 1_000_000

interface SimulatedNode {
  key: PrivateKey
  announcer: Announcer
  facts: NodeFacts
  sequence: number
  /** The last sequence heard of each other node; 0: it was known before the start. */
  heard: Uint32Array
  sentMessages: number
  sentBytes: number
  receivedBytes: number
}

interface Message {
  author: number
  envelope: ParsedEnvelope
  bytes: number
  /** Null until its signature was checked. */
  isGenuine: boolean | null
  seenBy: Uint8Array
}

type Event = { kind: 'due'; node: number } | { kind: 'arrives'; message: Message; from: number; to: number }

export interface Traffic {
  /** Per node and second, in the time that was simulated; sent is received, all in all. */
  meanMessages: number
  maxMessages: number
  meanBytes: number
  maxBytes: number
  announcementBytes: number
}

export interface SimulationInit {
  nodes: number
  random: () => number
  roundTrip: RoundTrip
}

export class AnnouncementMesh {
  readonly #random: () => number
  readonly #roundTrip: RoundTrip
  readonly #nodes: SimulatedNode[]
  readonly #links: readonly (readonly number[])[]
  readonly #queue = new EventQueue<Event>()
  /** Told of each first arrival: what the mesh is waiting for is looked for there. */
  #onNews: (to: number, envelope: ParsedEnvelope, atMs: number) => void = () => undefined
  #nowMs = 0
  #announced = { messages: 0, bytes: 0 }

  private constructor(nodes: SimulatedNode[], { random, roundTrip }: SimulationInit) {
    this.#random = random
    this.#roundTrip = roundTrip
    this.#nodes = nodes
    this.#links = overlay(nodes.length, random)
  }

  /** Nodes that have known each other for long: each is somewhere in its beat. */
  static async start(init: SimulationInit): Promise<AnnouncementMesh> {
    const { nodes: count, random } = init
    const nodes = await Promise.all(Array.from({ length: count }, (_, index) => simulatedNode(index, init)))
    const mesh = new AnnouncementMesh(nodes, init)
    for (const [index, { announcer }] of nodes.entries()) {
      // Until a beat that isn't over yet: a start where many were due at once would not be steady.
      do announcer.begin(-random() * 1.1 * announcer.beatMs(count), count)
      while (announcer.dueAtMs < 0)
      mesh.#queue.push(announcer.dueAtMs, { kind: 'due', node: index })
    }
    return mesh
  }

  /** What goes over the links in so much time. */
  async steadyTraffic(durationMs: number): Promise<Traffic> {
    for (const node of this.#nodes) Object.assign(node, { sentMessages: 0, sentBytes: 0, receivedBytes: 0 })
    this.#announced = { messages: 0, bytes: 0 }
    await this.#runUntil(this.#nowMs + durationMs)
    const seconds = durationMs / 1000
    const messages = this.#nodes.map(({ sentMessages }) => sentMessages / seconds)
    const bytes = this.#nodes.map(
      ({ sentBytes, receivedBytes }) => Math.max(sentBytes, receivedBytes) / seconds,
    )
    return {
      meanMessages: mean(messages),
      maxMessages: Math.max(...messages),
      meanBytes: mean(this.#nodes.map(({ sentBytes }) => sentBytes / seconds)),
      maxBytes: Math.max(...bytes),
      announcementBytes: Math.round(this.#announced.bytes / Math.max(1, this.#announced.messages)),
    }
  }

  /**
   * A random node gets a template.
   *
   * @returns how long it took each of the others to know, in ms; Infinity for those that still don't at the end
   */
  async newTemplate(template: number, waitMs: number): Promise<number[]> {
    const id = templateNo(FIRST_NEW_TEMPLATE + template)
    const author = Math.floor(this.#random() * this.#nodes.length)
    const node = this.#nodes[author]!
    const startMs = this.#nowMs
    const tookMs = this.#nodes.map(() => Number.POSITIVE_INFINITY)
    this.#onNews = (to, { announcement }, atMs) => {
      if (announcement.facts.templates.includes(id)) tookMs[to] = Math.min(tookMs[to]!, atMs - startMs)
    }
    node.facts = { ...node.facts, templates: [...node.facts.templates, id] }
    node.announcer.changed(startMs)
    this.#queue.push(node.announcer.dueAtMs, { kind: 'due', node: author })
    await this.#runUntil(startMs + waitMs)
    node.facts = {
      ...node.facts,
      templates: node.facts.templates.filter((other: TemplateId) => other !== id),
    }
    return tookMs.filter((_, to) => to !== author)
  }

  async #runUntil(untilMs: number): Promise<void> {
    for (;;) {
      const next = this.#queue.pop(untilMs)
      if (next === null) break
      this.#nowMs = next.atMs
      if (next.event.kind === 'due') await this.#announceIfDue(next.event.node)
      else await this.#receive(next.event.message, next.event.from, next.event.to)
    }
    this.#nowMs = untilMs
  }

  async #announceIfDue(index: number): Promise<void> {
    const node = this.#nodes[index]!
    // An earlier event may have been for a change that has gone out since.
    if (node.announcer.dueAtMs > this.#nowMs) return
    const { validMs } = node.announcer.begin(this.#nowMs, this.#nodes.length)
    const order = { incarnation: 1, sequence: ++node.sequence }
    const content = {
      ...order,
      validMs,
      name: `node-${index}`,
      addresses: [addressOf(index)],
      facts: node.facts,
    }
    const data = await sealAnnouncement(content, node.key)
    const message: Message = {
      author: index,
      envelope: parseEnvelope(data),
      bytes: data.length,
      isGenuine: null,
      seenBy: new Uint8Array(this.#nodes.length),
    }
    message.seenBy[index] = 1
    this.#announced.messages++
    this.#announced.bytes += data.length
    for (const to of this.#links[index]!) this.#send(message, index, to)
    this.#queue.push(node.announcer.dueAtMs, { kind: 'due', node: index })
  }

  #send(message: Message, from: number, to: number): void {
    const node = this.#nodes[from]!
    node.sentMessages++
    node.sentBytes += message.bytes + FRAME_BYTES
    const atMs = this.#nowMs + this.#roundTrip(from, to) / 2 + PROCESSING_MS
    this.#queue.push(atMs, { kind: 'arrives', message, from, to })
  }

  async #receive(message: Message, from: number, to: number): Promise<void> {
    const node = this.#nodes[to]!
    node.receivedBytes += message.bytes + FRAME_BYTES
    if (message.seenBy[to] === 1) return
    message.seenBy[to] = 1
    message.isGenuine ??= await message.envelope.verify()
    const { sequence } = message.envelope.announcement
    if (!message.isGenuine || sequence <= node.heard[message.author]!) return
    node.heard[message.author] = sequence
    this.#onNews(to, message.envelope, this.#nowMs)
    for (const next of this.#links[to]!) if (next !== from) this.#send(message, to, next)
  }
}

async function simulatedNode(index: number, { nodes, random }: SimulationInit): Promise<SimulatedNode> {
  const templates = Array.from({ length: TEMPLATES_PER_NODE }, () => templateNo(Math.floor(random() * 100)))
  const vms = Array.from({ length: VMS_PER_NODE }, (_, vm) =>
    vmNo(index * VMS_PER_NODE + vm, templates[vm % TEMPLATES_PER_NODE]!),
  )
  return {
    key: await generateKeyPair('Ed25519'),
    announcer: new Announcer({ random }),
    facts: someFacts({ templates, vms }),
    sequence: 0,
    heard: new Uint32Array(nodes),
    sentMessages: 0,
    sentBytes: 0,
    receivedBytes: 0,
  }
}

/** Who passes messages to whom: each node asks others at random until it has D links, nobody takes more than D_high. */
function overlay(count: number, random: () => number): number[][] {
  const links = Array.from({ length: count }, () => new Set<number>())
  const wanted = Math.min(GOSSIP_DEGREE, count - 1)
  for (const [from, own] of links.entries()) {
    for (let tries = 0; own.size < wanted && tries < 100 * count; tries++) {
      const to = Math.floor(random() * count)
      if (to === from || links[to]!.size >= MAX_GOSSIP_DEGREE) continue
      own.add(to)
      links[to]!.add(from)
    }
  }
  return links.map((own) => [...own])
}

function addressOf(index: number): string {
  return `/ip4/10.${index >> 16}.${(index >> 8) & 255}.${index & 255}/tcp/4710`
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length
}
