import type { AbstractSublevel } from 'abstract-level'
import type { MigrationReport } from '../domain/migration.ts'
import type { MigrationId, PeerIdText, VmId } from '../domain/vm.ts'
import type { Grant } from './grant.ts'
import type { Database, JournalWrite } from './ports.ts'
import type { Verdict } from './verdict.ts'

/** A Grant that this node, as destination, has taken. */
export interface TakenGrant {
  /** Earlier versions kept their refusals here too. */
  verdict: 'granted'
  vmId: VmId
  epoch: number
  source: PeerIdText
  atMs: number
}

/** Reports kept for `migration ls`; older ones go. */
const MAX_REPORTS = 1_000

type Store<T> = AbstractSublevel<Database, string | Buffer | Uint8Array, string, T>

/**
 * What must outlive the agent about moves. Taken Grants are never removed by
 * age: a source may ask about one after months. Refusals need no record
 * (handover.ts). What the source itself must remember is in the VM's record, in
 * one place: its state `in-doubt`.
 */
export class MigrationJournal {
  readonly #taken: Store<TakenGrant>
  readonly #reports: Store<{ report: MigrationReport; endedAtMs: number }>

  constructor(db: Database) {
    this.#taken = db.sublevel<string, TakenGrant>('verdicts', { valueEncoding: 'json' })
    this.#reports = db.sublevel<string, { report: MigrationReport; endedAtMs: number }>('migrations', {
      valueEncoding: 'json',
    })
  }

  /** Whether this very Grant is this node's. */
  async hasTaken({ migrationId, vmId, epoch, source }: Grant): Promise<boolean> {
    const taken = await this.#taken.get(migrationId)
    return (
      taken?.verdict === 'granted' && taken.vmId === vmId && taken.epoch === epoch && taken.source === source
    )
  }

  /** The write that makes a Grant ours; goes to disk together with the VM's record. */
  takeWrite({ migrationId, vmId, epoch, source }: Grant): JournalWrite {
    const value: TakenGrant = { verdict: 'granted', vmId, epoch, source, atMs: Date.now() }
    return { type: 'put', sublevel: this.#taken, key: migrationId, value }
  }

  /** The write that takes that back. */
  untakeWrite({ migrationId }: Grant): JournalWrite {
    return { type: 'del', sublevel: this.#taken, key: migrationId }
  }

  async saveReport(report: MigrationReport): Promise<void> {
    await this.#reports.put(report.migrationId, { report, endedAtMs: Date.now() }, {})
    const all = await this.#reports.iterator().all()
    if (all.length <= MAX_REPORTS) return
    const oldest = all
      .toSorted(([, a], [, b]) => a.endedAtMs - b.endedAtMs)
      .slice(0, all.length - MAX_REPORTS)
    await this.#reports.batch(oldest.map(([key]) => ({ type: 'del', key })))
  }

  /** What became of a move that was left open: in doubt, or as an agent that was killed leaves it. */
  async correctReport(migrationId: MigrationId, verdict: Verdict): Promise<void> {
    const report = await this.report(migrationId)
    const isOpen = report?.outcome === 'in-doubt' || report?.error?.code === 'MIGRATION_INTERRUPTED'
    if (report === undefined || !isOpen) return
    const never = { code: 'PEER_LOST', message: 'the Grant was never accepted: the VM is here', details: {} }
    const corrected: Pick<MigrationReport, 'outcome' | 'error'> =
      verdict === 'granted' ? { outcome: 'completed', error: null } : { outcome: 'failed', error: never }
    await this.saveReport({ ...report, ...corrected })
  }

  async report(migrationId: MigrationId): Promise<MigrationReport | undefined> {
    return (await this.#reports.get(migrationId))?.report
  }

  /** Oldest first. */
  async reports(): Promise<MigrationReport[]> {
    const all = await this.#reports.values().all()
    return all.toSorted((a, b) => a.endedAtMs - b.endedAtMs).map(({ report }) => report)
  }
}
