import type { MigrationProgress, MigrationReport } from '../../domain/migration.ts'
import type { CommandKind, CommandMessage } from '../../wire/command-messages.ts'
import type { MigrateReply, MigrationReply, VmReply, VmShowReply } from '../api-schema.ts'

/** A command on a VM or a move, wherever it was given. */
export type Command<K extends CommandKind = CommandKind> = Extract<CommandMessage, { kind: K }>

/** What each command answers with. */
export interface CommandResults {
  show: VmShowReply
  pause: VmReply
  resume: VmReply
  reset: VmReply
  stop: VmReply
  remove: VmReply
  set: VmReply
  migrate: MigrateReply
  watch: MigrationReport
  report: MigrationReply
  cancel: MigrationReply
  resolve: MigrationReply
}

export interface CommandOptions {
  /** Of `watch` only. */
  onProgress: (progress: MigrationProgress) => void
  /** Ends the waiting. A move that has begun goes on. */
  signal: AbortSignal
}
