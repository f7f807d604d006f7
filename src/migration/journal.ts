import type { AbstractSublevel } from 'abstract-level'
import type { MigrationId, PeerIdText, VmId } from '../domain/vm.ts'
import { MigrationError } from './errors.ts'
import type { Grant } from './grant.ts'
import type { Database, JournalWrite } from './ports.ts'

/** A Grant that this node, as destination, has taken. */
export interface TakenGrant {
  /** Earlier versions kept their refusals here too. */
  verdict: 'granted'
  vmId: VmId
  epoch: number
  source: PeerIdText
  place?: string
  atMs: number
}

type Store<T> = AbstractSublevel<Database, string | Buffer | Uint8Array, string, T>

/**
 * What must outlive the agent about moves. Taken Grants are never removed by
 * age: a source may ask about one after months. Refusals need no record
 * (handover.ts). What the source itself must remember is in the VM's record, in
 * one place: its state `in-doubt`.
 */
export class MigrationJournal {
  readonly #taken: Store<TakenGrant>

  constructor(db: Database) {
    this.#taken = db.sublevel<string, TakenGrant>('verdicts', { valueEncoding: 'json' })
  }

  /** Whether this very Grant is this node's. */
  async hasTaken({ migrationId, vmId, epoch, source, place }: Grant): Promise<boolean> {
    const taken = await this.#taken.get(migrationId)
    if (taken?.verdict !== 'granted') return false
    // Earlier versions knew no places.
    const isOfPlace = taken.place === undefined || taken.place === place
    return taken.vmId === vmId && taken.epoch === epoch && taken.source === source && isOfPlace
  }

  /**
   * A move's name is its source's to choose, and other nodes may know it: the record of one that was taken must not
   * be written over by another's.
   *
   * @throws MigrationError PROTOCOL_VIOLATION when a Grant of a move of that name was taken here
   */
  async requireNew(migrationId: MigrationId): Promise<void> {
    if ((await this.#taken.get(migrationId)) === undefined) return
    throw new MigrationError('PROTOCOL_VIOLATION', `move ${migrationId} was here already`)
  }

  /** The write that makes a Grant ours; goes to disk together with the VM's record. */
  takeWrite({ migrationId, vmId, epoch, source, place }: Grant): JournalWrite {
    const value: TakenGrant = { verdict: 'granted', vmId, epoch, source, place, atMs: Date.now() }
    return { type: 'put', sublevel: this.#taken, key: migrationId, value }
  }

  /** The write that takes that back. */
  untakeWrite({ migrationId }: Grant): JournalWrite {
    return { type: 'del', sublevel: this.#taken, key: migrationId }
  }
}
