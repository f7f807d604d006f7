import type { AbstractSublevel } from 'abstract-level'
import type { MigrationReport } from '../domain/migration.ts'
import type { MigrationId } from '../domain/vm.ts'
import type { Database } from './ports.ts'
import type { Verdict } from './verdict.ts'

/** Reports kept for `migration ls`; older ones go. */
const MAX_REPORTS = 1_000

interface Ended {
  report: MigrationReport
  endedAtMs: number
}

/**
 * How moves from here ended, for people. What a full disk refuses is kept in
 * memory and written with the next one: a gap in a list is no reason to call a
 * move failed.
 */
export class MoveReports {
  readonly #written: AbstractSublevel<Database, string | Buffer | Uint8Array, string, Ended>
  readonly #unwritten = new Map<MigrationId, Ended>()

  constructor(db: Database) {
    this.#written = db.sublevel<string, Ended>('migrations', { valueEncoding: 'json' })
  }

  /** On disk when it resolves, or in memory where the disk refuses. */
  async save(report: MigrationReport): Promise<void> {
    this.#unwritten.set(report.migrationId, { report, endedAtMs: Date.now() })
    const waiting = [...this.#unwritten]
    try {
      await this.#written.batch(waiting.map(([key, value]) => ({ type: 'put', key, value })))
      for (const [key, value] of waiting) if (this.#unwritten.get(key) === value) this.#unwritten.delete(key)
      await this.#dropOldest()
    } catch {
      const [oldest] = this.#unwritten.keys()
      if (this.#unwritten.size > MAX_REPORTS) this.#unwritten.delete(oldest!)
    }
  }

  /**
   * What became of a move that was left open: in doubt, or as an agent that was killed leaves it. Never rejects, as
   * whoever tells it acts on it next: a report that the disk doesn't give out stays as it is.
   */
  async correct(migrationId: MigrationId, verdict: Verdict): Promise<void> {
    const report = await this.get(migrationId).catch(() => undefined)
    const isOpen = report?.outcome === 'in-doubt' || report?.error?.code === 'MIGRATION_INTERRUPTED'
    if (report === undefined || !isOpen) return
    const never = { code: 'PEER_LOST', message: 'the Grant was never accepted: the VM is here', details: {} }
    const corrected: Pick<MigrationReport, 'outcome' | 'error'> =
      verdict === 'granted' ? { outcome: 'completed', error: null } : { outcome: 'failed', error: never }
    await this.save({ ...report, ...corrected })
  }

  async get(migrationId: MigrationId): Promise<MigrationReport | undefined> {
    return (this.#unwritten.get(migrationId) ?? (await this.#written.get(migrationId)))?.report
  }

  /** Oldest first. */
  async all(): Promise<MigrationReport[]> {
    const all = new Map<MigrationId, Ended>(await this.#written.iterator().all())
    for (const [key, value] of this.#unwritten) all.set(key, value)
    return [...all.values()].toSorted((a, b) => a.endedAtMs - b.endedAtMs).map(({ report }) => report)
  }

  async #dropOldest(): Promise<void> {
    const all = await this.#written.iterator().all()
    if (all.length <= MAX_REPORTS) return
    const oldest = all
      .toSorted(([, a], [, b]) => a.endedAtMs - b.endedAtMs)
      .slice(0, all.length - MAX_REPORTS)
    await this.#written.batch(oldest.map(([key]) => ({ type: 'del', key })))
  }
}
