import type { MigrationReport } from '../domain/migration.ts'
import type { Session } from './session.ts'
import { cancelMigration, describeProgress, UNINTERRUPTED, watchMigration } from './watch-migration.ts'

/** The moves of one command: followed side by side, told of in one line, cancelled together. */
export class HerdWatch {
  readonly #session: Session
  /** Those that have not ended, in the order of their turns. */
  readonly #underWay = new Set<string>()
  #moves = 0

  constructor(session: Session) {
    this.#session = session
  }

  /** Until the move has ended. */
  async follow(migrationId: string): Promise<MigrationReport> {
    this.#moves++
    this.#underWay.add(migrationId)
    try {
      return await watchMigration(this.#session, migrationId, {
        signal: UNINTERRUPTED,
        onProgress: (progress) => {
          const done = this.#moves - this.#underWay.size
          const count = this.#moves > 1 ? `${done} of ${this.#moves} done; ` : ''
          this.#session.out.progress(`${count}${describeProgress(progress)}`)
        },
      })
    } finally {
      this.#underWay.delete(migrationId)
    }
  }

  /** The last first: a move that waits must not get the turn of one that was cancelled before it. */
  async cancel(): Promise<void> {
    this.#session.out.note('cancelling; waiting for the moves to end (Ctrl-C again to leave at once)')
    for (const migrationId of [...this.#underWay].reverse()) {
      if (this.#underWay.has(migrationId)) await cancelMigration(this.#session, migrationId)
    }
  }
}
