import type { AbstractBatchOperation, AbstractSublevel } from 'abstract-level'
import type { Level } from 'level'
import { steadyNowMs } from '../domain/clock.ts'
import { type KeptCoolDown, NO_COOL_DOWN } from '../domain/cool-down.ts'
import type { VmId, VmRecord, VmSpec, VmWishes } from '../domain/vm.ts'

/** The agent's one database; the room's records are its sublevel `vms`, by VM id. */
export type Database = Level<string, unknown>
/** A write that goes to disk together with others, or not at all. */
export type DatabaseWrite = AbstractBatchOperation<Database, string, unknown>

/** A record as it may lie on disk: those of earlier versions lack what was added since. */
type StoredRecord = Omit<VmRecord, 'runDirName' | 'spec' | 'coolDown'> & {
  runDirName?: string
  coolDown?: KeptCoolDown
  spec: Omit<VmSpec, 'clients' | 'auto'> & VmWishes
}

/** The VM records on disk. Every write is synced: what was awaited survives a power cut. */
export class VmRecords {
  readonly #db: Database
  readonly #vms: AbstractSublevel<Database, string | Buffer | Uint8Array, string, StoredRecord>

  constructor(db: Database) {
    this.#db = db
    this.#vms = db.sublevel<string, StoredRecord>('vms', { valueEncoding: 'json' })
  }

  async load(): Promise<VmRecord[]> {
    const stored = await this.#vms.values().all()
    const nowMs = Math.round(steadyNowMs())
    return stored.map((record) => ofThePast(completed(record), nowMs))
  }

  /** One atomic write: the record, and whatever else must be true together with it. */
  put(record: VmRecord, also: readonly DatabaseWrite[] = []): Promise<void> {
    const write: DatabaseWrite = { type: 'put', sublevel: this.#vms, key: record.spec.id, value: record }
    return this.#db.batch([write, ...also], { sync: true })
  }

  /** One atomic write, as `put`. */
  delete(id: VmId, also: readonly DatabaseWrite[] = []): Promise<void> {
    const write: DatabaseWrite = { type: 'del', sublevel: this.#vms, key: id }
    return this.#db.batch([write, ...also], { sync: true })
  }
}

/** A clock that was ahead makes nothing wait until it is as late as that again. */
function ofThePast(record: VmRecord, nowMs: number): VmRecord {
  const { createdAtMs, coolDown } = record
  return {
    ...record,
    createdAtMs: Math.min(createdAtMs, nowMs),
    coolDown: { ...coolDown, atMs: Math.min(coolDown.atMs, nowMs) },
  }
}

function completed({ state, ...record }: StoredRecord): VmRecord {
  return {
    ...record,
    spec: { ...record.spec, clients: record.spec.clients ?? [], auto: record.spec.auto ?? false },
    coolDown: record.coolDown ?? { ...NO_COOL_DOWN, atMs: record.createdAtMs },
    runDirName: record.runDirName ?? record.spec.id,
    state: state.kind === 'stopped' ? { ...state, doubt: state.doubt ?? null } : state,
  }
}
