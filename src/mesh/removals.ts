import type { PrivateKey } from '@libp2p/interface'
import type { Level } from 'level'
import { WireError } from '../wire/errors.ts'
import { MAX_REMOVALS } from '../wire/mesh-messages.ts'
import { MeshError } from './errors.ts'
import { parseRemoval, type Removal, type SignedRemoval, sealRemoval } from './removal-envelope.ts'

export interface RemovalsComponents {
  /** Kept in its sublevel `removals`. */
  db: Level<string, unknown>
  privateKey: PrivateKey
  /** Whether a node's removals count here. */
  mayRemove: (peerId: string) => boolean
}

export interface RemovalsInit {
  selfId: string
}

interface Stored {
  /** The envelope, base64. */
  envelope: string
  /** What it was called here; empty where it was never met. */
  name: string
}

/** A removal that counts here. */
export interface KeptRemoval extends Removal {
  name: string
  bytes: Uint8Array
}

/**
 * Nodes that are removed from the mesh: a set that only grows, so that nodes
 * that learn of the same removals in whatever order agree. That is also why a
 * removal counts after its remover was removed itself. This node's own may be
 * among them.
 *
 * Signed statements of whoever `mayRemove`, and of this node. Those of others
 * are kept aside while there is room: a config file may change its mind.
 */
export class Removals {
  readonly #db: Level<string, unknown>
  readonly #stored
  readonly #privateKey: PrivateKey
  readonly #mayRemove: (peerId: string) => boolean
  readonly #selfId: string
  readonly #kept = new Map<string, KeptRemoval>()
  /** On disk, and of no account here: peer ids. */
  readonly #dormant = new Set<string>()

  constructor({ db, privateKey, mayRemove }: RemovalsComponents, { selfId }: RemovalsInit) {
    this.#db = db
    this.#stored = db.sublevel<string, Stored>('removals', { valueEncoding: 'json' })
    this.#privateKey = privateKey
    this.#mayRemove = (peerId) => peerId === selfId || mayRemove(peerId)
    this.#selfId = selfId
  }

  /** Nothing on disk is believed that a peer wouldn't be. */
  async load(): Promise<void> {
    for await (const [peerId, { envelope, name }] of this.#stored.iterator()) {
      const removal = parseRemoval(Buffer.from(envelope, 'base64'))
      if (!this.#mayRemove(removal.removedBy)) this.#dormant.add(peerId)
      else if (await removal.verify()) this.#kept.set(peerId, { ...withoutVerify(removal), name })
    }
  }

  has(peerId: string): boolean {
    return this.#kept.has(peerId)
  }

  get(peerId: string): KeptRemoval | undefined {
    return this.#kept.get(peerId)
  }

  /** @throws MeshError PEER_REMOVED */
  requireMember(peerId: string): void {
    const removal = this.#kept.get(peerId)
    if (removal === undefined) return
    const { name, removedBy, atMs } = removal
    throw new MeshError('PEER_REMOVED', `${name || peerId} was removed from this mesh, by ${removedBy}`, {
      details: { peer: peerId, removedBy, atMs },
    })
  }

  /** Peer ids of removed nodes that were called so. */
  named(name: string): string[] {
    return this.all().flatMap((removal) => (removal.name === name ? [removal.peerId] : []))
  }

  /** All that count here, oldest first. */
  all(): KeptRemoval[] {
    return [...this.#kept.values()]
  }

  /** What another node has to be told: envelopes. */
  envelopes(): Uint8Array[] {
    return this.all().map(({ bytes }) => bytes)
  }

  /**
   * Removes a node in this one's name; one that is removed already stays so as it was. On disk when it resolves.
   *
   * @param name - what it was called
   * @throws MeshError PEER_IS_SELF, TOO_MANY_REMOVALS
   */
  async remove(peerId: string, { name, atMs }: { name: string; atMs: number }): Promise<KeptRemoval> {
    if (peerId === this.#selfId) {
      throw new MeshError('PEER_IS_SELF', 'a node does not remove itself: do it on another node', {
        details: { peer: peerId },
      })
    }
    const known = this.#kept.get(peerId)
    if (known !== undefined) return known
    const bytes = await sealRemoval({ peerId, atMs }, this.#privateKey)
    await this.#keep({ peerId, removedBy: this.#selfId, atMs, name, bytes })
    const removal = this.#kept.get(peerId)
    if (removal === undefined) {
      throw new MeshError(
        'TOO_MANY_REMOVALS',
        `${MAX_REMOVALS} nodes are removed from this mesh already: start a new one`,
        { details: { peer: peerId } },
      )
    }
    return removal
  }

  /**
   * Takes in what a peer hands on.
   *
   * @param nameOf - what a node is called here
   * @returns those that are new and count here, each as soon as it is on disk
   * @throws WireError MESSAGE_MALFORMED when one is forged: nobody who checks what he hands on sends that
   */
  async *offer(
    envelopes: readonly Uint8Array[],
    nameOf: (peerId: string) => string,
  ): AsyncGenerator<KeptRemoval> {
    for (const removal of envelopes.map(parseRemoval)) {
      const { peerId, removedBy } = removal
      if (this.#kept.has(peerId) || !this.#mayRemove(removedBy)) continue
      if (!(await removal.verify())) {
        throw new WireError('MESSAGE_MALFORMED', `a removal that ${removedBy} never signed`)
      }
      const kept = { ...withoutVerify(removal), name: nameOf(peerId) }
      if (await this.#keep(kept)) yield kept
    }
  }

  /** @returns false when it is no news, or there is no room */
  async #keep(removal: KeptRemoval): Promise<boolean> {
    const { peerId, bytes, name } = removal
    if (this.#kept.has(peerId) || this.#kept.size >= MAX_REMOVALS) return false
    // Counts at once; the disk may take a while.
    this.#kept.set(peerId, removal)
    this.#dormant.delete(peerId)
    const sublevel = this.#stored
    const value = { envelope: Buffer.from(bytes).toString('base64'), name }
    const [dormant] = this.#dormant
    const isFull = dormant !== undefined && this.#kept.size + this.#dormant.size > MAX_REMOVALS
    if (isFull) this.#dormant.delete(dormant)
    try {
      await this.#db.batch(
        [
          ...(isFull ? [{ type: 'del' as const, sublevel, key: dormant }] : []),
          { type: 'put', sublevel, key: peerId, value },
        ],
        { sync: true },
      )
    } catch (error) {
      // As if it was never heard: the next hello brings it again, and then all of it is done.
      this.#kept.delete(peerId)
      throw error
    }
    return true
  }
}

function withoutVerify({ peerId, removedBy, atMs, bytes }: SignedRemoval): Omit<KeptRemoval, 'name'> {
  return { peerId, removedBy, atMs, bytes }
}
