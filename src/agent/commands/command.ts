import type { MigrationProgress, MigrationReport } from '../../domain/migration.ts'
import type { CommandKind, CommandMessage } from '../../wire/command-messages.ts'
import type {
  DrainProgress,
  DrainReply,
  MigrateReply,
  MigrationReply,
  NodeStateReply,
  VmReply,
  VmShowReply,
} from '../api-schema.ts'

/** A command on a VM, a move or a node, wherever it was given. */
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
  drain: DrainReply
  stopDrain: NodeStateReply
  ready: NodeStateReply
}

/** Commands that tell of their progress, and how. */
export interface CommandProgress {
  watch: MigrationProgress
  drain: DrainProgress
}

export interface CommandOptions<K extends CommandKind> {
  onProgress: (progress: K extends keyof CommandProgress ? CommandProgress[K] : never) => void
  /** Ends the waiting. A move that has begun goes on. */
  signal: AbortSignal
}
