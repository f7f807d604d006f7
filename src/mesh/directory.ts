import { hash } from 'node:crypto'
import type { NodeView } from '../domain/node.ts'
import type { TemplateId } from '../domain/template.ts'
import type { VmId } from '../domain/vm.ts'
import { type HeldAnnouncement, KNOWN_DIGEST_BYTES, MAX_KNOWN } from '../wire/directory-messages.ts'
import { templateDigest } from '../wire/template-digest.ts'
import { dialableAddresses } from './address.ts'
import { type Announcement, type AnnouncementOrder, isNewer } from './announcement.ts'
import { type LostVm, LostVms } from './lost-vms.ts'
import { filterHas } from './template-filter.ts'

/** With usual announcements 4 MiB, with the largest 32. */
export const MAX_NODES = 4096

/**
 * Who is gone is remembered so long, as its last announcement: whoever hands
 * that on once more doesn't bring it back.
 */
const FORGOTTEN_MS = 3600 * 1000
const MAX_FORGOTTEN = 4096

/** A beat is 1 / 3.5 of the validity, and comes up to a tenth late: after a third one was missed. */
const OVERDUE_SHARE = 1 / 3

/** An announcement whose signature was right. */
export interface SignedAnnouncement {
  author: string
  announcement: Announcement
  /** The envelope. */
  bytes: Uint8Array
}

/** `node-announced`: it is new, or has other templates than before. */
export interface NodeChange {
  kind: 'node-announced' | 'node-expired'
  peerId: string
  name: string
  templatesTotal: number
}

/** After the `node-expired` of a node that fell silent, with the VMs that ran there. */
export interface VmsLostSight {
  kind: 'vms-lost-sight'
  peerId: string
  node: string
  vms: { id: VmId; name: string }[]
}

export type NodeEvent = NodeChange | VmsLostSight

interface Entry extends SignedAnnouncement {
  view: NodeView
  templates: ReadonlySet<TemplateId>
  /** When its author said it, as far as is known. */
  saidAtMs: number
  /** Of the envelope, in hex. */
  digest: string
}

/**
 * What this node knows of all the others, by their own words. Bounded, and
 * without clock or network: who asks says what time it is.
 */
export class Directory {
  readonly #selfId: string
  readonly #maxNodes: number
  readonly #isRemoved: (peerId: string) => boolean
  readonly #entries = new Map<string, Entry>()
  readonly #lost = new LostVms()
  readonly #forgotten = new Map<string, AnnouncementOrder & { untilMs: number }>()
  #self: Entry | null = null

  /** @param init.isRemoved - whose words are worth nothing, whoever hands them on */
  constructor(init: { selfId: string; maxNodes?: number; isRemoved?: (peerId: string) => boolean }) {
    this.#selfId = init.selfId
    this.#isRemoved = init.isRemoved ?? (() => false)
    this.#maxNodes = init.maxNodes ?? MAX_NODES
  }

  /** Nodes known, this one included. */
  get size(): number {
    return this.#entries.size + 1
  }

  /** What an announcement would be, whoever signed it: to be asked before its signature is checked. */
  weigh(author: string, order: AnnouncementOrder): 'news' | 'stale' | 'full' {
    if (author === this.#selfId || this.#isRemoved(author)) return 'stale'
    const last = this.#entries.get(author)?.announcement ?? this.#forgotten.get(author)
    if (last !== undefined && !isNewer(order, last)) return 'stale'
    return this.#entries.has(author) || this.#entries.size < this.#maxNodes ? 'news' : 'full'
  }

  /**
   * Takes one in that `weigh` called news.
   *
   * @param ageMs - on its way here, as far as is known
   * @returns what changed for those who listen
   */
  take(signed: SignedAnnouncement, { nowMs, ageMs }: { nowMs: number; ageMs: number }): NodeChange | null {
    const { author, announcement } = signed
    if (this.weigh(author, announcement) !== 'news') return null
    const before = this.#entries.get(author)
    if (announcement.validMs === 0) {
      this.#lost.forget(author)
      this.#forget(author, announcement, nowMs)
      return before === undefined ? null : event('node-expired', before)
    }
    const entry = this.#entry(signed, { nowMs, ageMs, self: false })
    this.#entries.set(author, entry)
    this.#forgotten.delete(author)
    this.#lost.heard(entry.view)
    return before !== undefined && sameTemplates(before, entry) ? null : event('node-announced', entry)
  }

  /** What this node said last. Its own view is whole, whatever of it fitted. */
  takeOwn(signed: SignedAnnouncement, whole: NodeView['facts'], nowMs: number): void {
    const entry = this.#entry(signed, { nowMs, ageMs: 0, self: true })
    const view = { ...entry.view, facts: whole, templatesListed: true, vmsListed: true }
    this.#self = { ...entry, view }
    this.#lost.heard(view)
  }

  /** Forgets a node that was removed from the mesh. */
  drop(peerId: string): NodeChange | null {
    const entry = this.#entries.get(peerId)
    this.#entries.delete(peerId)
    this.#lost.forget(peerId)
    return entry === undefined ? null : event('node-expired', entry)
  }

  /** Forgets those who have been silent too long. */
  expire(nowMs: number): NodeEvent[] {
    const expired = [...this.#entries.values()].filter(({ view }) => view.expiresAtMs <= nowMs)
    for (const { author, announcement } of expired) this.#forget(author, announcement, nowMs)
    for (const [author, { untilMs }] of this.#forgotten) {
      if (untilMs <= nowMs) this.#forgotten.delete(author)
    }
    this.#lost.expire(nowMs)
    return expired.flatMap((entry) => [event('node-expired', entry), ...this.#lose(entry, nowMs)])
  }

  /** VMs of nodes that fell silent, until they are seen again; those of an hour. */
  lostVms(): LostVm[] {
    return this.#lost.list()
  }

  /** This node first, once it has said something, then by name. */
  views(): NodeView[] {
    const others = [...this.#entries.values()].map(({ view }) => view)
    others.sort((a, b) => compare(a.name, b.name) || compare(a.peerId, b.peerId))
    return this.#self === null ? others : [this.#self.view, ...others]
  }

  get(peerId: string): NodeView | undefined {
    return this.#entries.get(peerId)?.view ?? (peerId === this.#selfId ? this.#self?.view : undefined)
  }

  /** Peer ids of the other nodes with a template: those that listed it, then those that probably have it. */
  providers(id: TemplateId): { listed: string[]; probable: string[] } {
    const entries = [...this.#entries.values()]
    const digest = templateDigest(id)
    return {
      listed: entries.filter(({ templates }) => templates.has(id)).map(({ author }) => author),
      probable: entries
        .filter(({ announcement }) => filterHas(announcement.templateFilter, digest))
        .map(({ author }) => author),
    }
  }

  /**
   * Nodes that say they have a VM; of those with the same VM the one with the highest epoch first.
   *
   * @param ref - a VM's name or id
   */
  nodesOfVm(ref: string | VmId): NodeView[] {
    const epochOn = ({ facts }: NodeView) =>
      Math.max(
        -1,
        ...facts.vms.filter(({ id, name }) => id === ref || name === ref).map(({ epoch }) => epoch),
      )
    return this.views()
      .map((view) => ({ view, epoch: epochOn(view) }))
      .filter(({ epoch }) => epoch >= 0)
      .sort((a, b) => b.epoch - a.epoch)
      .map(({ view }) => view)
  }

  /** Whether something of this node was missed: it is unknown, or later than its beat. */
  isOverdue(peerId: string, nowMs: number): boolean {
    const entry = this.#entries.get(peerId)
    if (entry === undefined) return peerId !== this.#selfId
    return nowMs - entry.saidAtMs > entry.announcement.validMs * OVERDUE_SHARE
  }

  /** Digests of all envelopes that are here, one after the other. */
  known(): Uint8Array {
    const digests = this.#all().map(({ digest }) => digest)
    return Buffer.from(digests.slice(0, MAX_KNOWN).join(''), 'hex')
  }

  /** What is here and isn't among the `known` of another directory: own words first, then the freshest. */
  *lackedBy(known: Uint8Array, nowMs: number): Generator<HeldAnnouncement> {
    const digests = new Set<string>()
    const hex = Buffer.from(known).toString('hex')
    for (let at = 0; at < hex.length; at += 2 * KNOWN_DIGEST_BYTES) {
      digests.add(hex.slice(at, at + 2 * KNOWN_DIGEST_BYTES))
    }
    for (const { digest, bytes, saidAtMs } of this.#all()) {
      if (!digests.has(digest)) yield { envelope: bytes, ageMs: Math.max(0, Math.round(nowMs - saidAtMs)) }
    }
  }

  #all(): Entry[] {
    const others = [...this.#entries.values()].sort((a, b) => b.saidAtMs - a.saidAtMs)
    return this.#self === null ? others : [this.#self, ...others]
  }

  #entry(
    signed: SignedAnnouncement,
    { nowMs, ageMs, self }: { nowMs: number; ageMs: number; self: boolean },
  ): Entry {
    const { author, announcement, bytes } = signed
    const { name, addresses, facts, templatesTotal, vmsTotal, templatesListed, vmsListed } = announcement
    return {
      ...signed,
      view: {
        peerId: author,
        name,
        addresses: dialableAddresses(addresses, author).map(String),
        facts,
        templatesTotal,
        vmsTotal,
        templatesListed,
        vmsListed,
        receivedAtMs: nowMs,
        expiresAtMs: self ? Number.POSITIVE_INFINITY : nowMs + announcement.validMs - ageMs,
        self,
      },
      templates: new Set(facts.templates),
      saidAtMs: nowMs - ageMs,
      digest: hash('sha256', bytes, 'hex').slice(0, 2 * KNOWN_DIGEST_BYTES),
    }
  }

  #lose({ author, view }: Entry, nowMs: number): VmsLostSight[] {
    const vms = this.#lost.lose(view, nowMs).map(({ id, name }) => ({ id, name }))
    return vms.length === 0 ? [] : [{ kind: 'vms-lost-sight', peerId: author, node: view.name, vms }]
  }

  #forget(author: string, { incarnation, sequence }: AnnouncementOrder, nowMs: number): void {
    this.#entries.delete(author)
    // Again at the end: the first ones are those to drop.
    this.#forgotten.delete(author)
    this.#forgotten.set(author, { incarnation, sequence, untilMs: nowMs + FORGOTTEN_MS })
    const [oldest] = this.#forgotten.keys()
    if (this.#forgotten.size > MAX_FORGOTTEN && oldest !== undefined) this.#forgotten.delete(oldest)
  }
}

function event(kind: NodeChange['kind'], { author, announcement }: Entry): NodeChange {
  return { kind, peerId: author, name: announcement.name, templatesTotal: announcement.templatesTotal }
}

function sameTemplates(a: Entry, b: Entry): boolean {
  return (
    a.templates.size === b.templates.size &&
    a.templates.isSubsetOf(b.templates) &&
    Buffer.from(a.announcement.templateFilter).equals(b.announcement.templateFilter)
  )
}

function compare(a: string, b: string): number {
  return a < b ? -1 : Number(a > b)
}
