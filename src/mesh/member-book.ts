import type { Level } from 'level'
import { MAX_HELLO_MEMBERS } from '../wire/mesh-messages.ts'
import { MeshError } from './errors.ts'

/** What a member said about itself, over its own connection. */
export interface MemberRecord {
  peerId: string
  name: string
  /** Multiaddrs, as it gave them. */
  addresses: string[]
}

/** As many as one hello can name. */
const MAX_MEMBERS = MAX_HELLO_MEMBERS

/** The members of the mesh that this node has met, this node not among them; kept in the database. */
export class MemberBook {
  readonly #self: { peerId: string; name: string }
  readonly #members = new Map<string, MemberRecord>()
  readonly #stored
  /** Members that the disk had no room for. */
  readonly #unwritten = new Set<string>()

  constructor(components: { db: Level<string, unknown> }, init: { self: { peerId: string; name: string } }) {
    this.#self = init.self
    this.#stored = components.db.sublevel<string, MemberRecord>('members', { valueEncoding: 'json' })
  }

  async load(): Promise<void> {
    for await (const [peerId, record] of this.#stored.iterator()) this.#members.set(peerId, record)
    this.#members.delete(this.#self.peerId)
  }

  all(): MemberRecord[] {
    return [...this.#members.values()]
  }

  get(peerId: string): MemberRecord | undefined {
    return this.#members.get(peerId)
  }

  /**
   * Takes what a peer said about itself. What the disk has no room for is written with the next one.
   *
   * @returns whether it is a member for the first time; null when there is no room for another one
   */
  async introduce(record: MemberRecord): Promise<boolean | null> {
    const known = this.#members.get(record.peerId)
    if (known === undefined && this.#members.size >= MAX_MEMBERS) return null
    this.#members.set(record.peerId, record)
    if (known === undefined || !sameRecord(known, record)) this.#unwritten.add(record.peerId)
    await this.#write()
    return known === undefined
  }

  /** It is no member any more. */
  async remove(peerId: string): Promise<void> {
    if (this.#members.delete(peerId)) await this.#stored.del(peerId)
  }

  /**
   * @param ref - a node's name or peer id
   * @param announced - nodes that this one knows without having met them
   * @returns its peer id
   * @throws MeshError PEER_NOT_FOUND, PEER_AMBIGUOUS
   */
  resolve(ref: string, announced: readonly { peerId: string; name: string }[]): string {
    const known = [this.#self, ...this.#members.values(), ...announced]
    if (known.some(({ peerId }) => peerId === ref)) return ref
    const named = new Set(known.filter(({ name }) => name === ref).map(({ peerId }) => peerId))
    const [match, ...others] = named
    if (match === undefined) {
      throw new MeshError('PEER_NOT_FOUND', `no node of this mesh is called ${ref}`, {
        details: { peer: ref },
      })
    }
    if (others.length > 0) {
      throw new MeshError('PEER_AMBIGUOUS', `${named.size} nodes are called ${ref}: use the peer id`, {
        details: { peer: ref, peerIds: [match, ...others] },
      })
    }
    return match
  }

  /** A member that isn't on disk is asked by others, and found by gossip: no reason to refuse it. */
  async #write(): Promise<void> {
    for (const peerId of this.#unwritten) {
      this.#unwritten.delete(peerId)
      await this.#stored.put(peerId, this.#members.get(peerId)!).catch(() => this.#unwritten.add(peerId))
    }
  }
}

function sameRecord(a: MemberRecord, b: MemberRecord): boolean {
  return a.name === b.name && a.addresses.join() === b.addresses.join()
}
