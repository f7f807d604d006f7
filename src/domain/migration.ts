import type { ErrorBody } from './errors.ts'
import type { TemplateId } from './template.ts'
import type { MigrationId, PeerIdText } from './vm.ts'

/** VMs that one command moves, and that are admitted together: a message of 300 KB at most. */
export const MAX_HERD_VMS = 64
/** Of those, side by side when nobody said otherwise: more than two cores have use for. */
export const DEFAULT_PARALLEL_MOVES = 4
/** As many moves as a node has under way at all; to one other it keeps to what that one takes. */
export const MAX_PARALLEL_MOVES = 16

/** How a move ended. `in-doubt` is not an end: it is reported while nobody may run the VM. */
export type MigrationOutcome = 'completed' | 'failed' | 'cancelled' | 'refused' | 'in-doubt'

/** Where a move stands; each phase is timed. */
export type MigrationPhase = 'negotiate' | 'template' | 'rounds' | 'blackout'

export interface RoundReport {
  pages: number
  bytes: number
  ms: number
  /** Share of the round that the guest was kept from running, as it wrote faster than the link carries: 0 to 99. */
  throttlePercent: number
}

/** Pages sent, by encoding, beside what the guest has. */
export interface PageReport {
  guest: number
  private: number
  sent: number
  /** Private pages that equal the template and were never sent otherwise. */
  omitted: number
  zero: number
  /** As difference to the template's pages. */
  xor: number
  zstd: number
  raw: number
  /** That the destination had: in another VM, or kept from this one's last stay; the latter are in no round. */
  reference: number
  template: number
}

/** What one move did: the `migrate --json` document. Its time begins when its turn comes. */
export interface MigrationReport {
  migrationId: MigrationId
  vm: string
  from: PeerIdText
  to: PeerIdText
  templateId: TemplateId
  outcome: MigrationOutcome
  durationsMs: { total: number; negotiate: number; template: number; rounds: number; blackout: number }
  /** `wire`: every byte put on streams for this move, both ways; `stockEquivalent`: what a plain QEMU migration would send. */
  bytes: { wire: number; template: number; pages: number; deviceState: number; stockEquivalent: number }
  pages: PageReport
  rounds: RoundReport[]
  destination: { private: number; shared: number } | null
  digest: 'verified' | null
  error: ErrorBody | null
}

/** A step of a move, as `migrate` and `migration watch` show it. */
export interface MigrationProgress {
  migrationId: MigrationId
  vm: string
  to: PeerIdText
  phase: MigrationPhase
  round: number
  pagesSent: number
  bytesSent: number
  /** As in the round's report, now. */
  throttlePercent: number
}
