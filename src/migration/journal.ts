import type { AbstractSublevel } from 'abstract-level'
import type { MigrationReport } from '../domain/migration.ts'
import type { MigrationId, PeerIdText, VmId } from '../domain/vm.ts'
import type { Database, JournalWrite } from './ports.ts'
import type { Verdict } from './verdict.ts'

/** What this node, as destination, has decided for good about one Grant. */
export interface GrantVerdict {
  verdict: Verdict
  vmId: VmId
  epoch: number
  source: PeerIdText
  atMs: number
}

/** Reports kept for `migration ls`; older ones go. */
const MAX_REPORTS = 1_000

type Store<T> = AbstractSublevel<Database, string | Buffer | Uint8Array, string, T>

/**
 * What must outlive the agent about moves. Verdicts are never removed by age:
 * a source may ask about a Grant after months. What the source itself must
 * remember is in the VM's record, in one place: its state `in-doubt`.
 */
export class MigrationJournal {
  readonly #db: Database
  readonly #verdicts: Store<GrantVerdict>
  readonly #reports: Store<{ report: MigrationReport; endedAtMs: number }>

  constructor(db: Database) {
    this.#db = db
    this.#verdicts = db.sublevel<string, GrantVerdict>('verdicts', { valueEncoding: 'json' })
    this.#reports = db.sublevel<string, { report: MigrationReport; endedAtMs: number }>('migrations', {
      valueEncoding: 'json',
    })
  }

  verdict(migrationId: MigrationId): Promise<GrantVerdict | undefined> {
    return this.#verdicts.get(migrationId)
  }

  /** The write that makes a Grant ours; goes to disk together with the VM's record. */
  grantWrite(migrationId: MigrationId, grant: Omit<GrantVerdict, 'verdict'>): JournalWrite {
    return this.#write(migrationId, { verdict: 'granted', ...grant })
  }

  /** On disk when it resolves: this Grant will never be accepted. */
  async refuse(migrationId: MigrationId, grant: Omit<GrantVerdict, 'verdict'>): Promise<void> {
    await this.#db.batch([this.#write(migrationId, { verdict: 'refused', ...grant })], { sync: true })
  }

  #write(key: MigrationId, value: GrantVerdict): JournalWrite {
    return { type: 'put', sublevel: this.#verdicts, key, value }
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

  /** What became of a move whose report said "in doubt". */
  async correctReport(migrationId: MigrationId, verdict: Verdict): Promise<void> {
    const report = await this.report(migrationId)
    if (report?.outcome !== 'in-doubt') return
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
