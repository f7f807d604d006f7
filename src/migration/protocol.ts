/**
 * Protocols and bounds of a move. The sequence is drawn in `migration.proto`,
 * who may run the VM when in `handover.ts`.
 */

/** Control messages of one move. */
export const MIGRATE_PROTOCOL = '/drover/migrate/4'
/** Page batches of one move, beside the control stream: control never waits behind data. */
export const PAGES_PROTOCOL = '/drover/pages/2'
/** What became of a Grant. */
export const HANDOVER_PROTOCOL = '/drover/handover/2'

/** Memory for several VMs at once, before the first of them is offered. */
export const HERD_PROTOCOL = '/drover/herd/1'

/** One bound per phase; a move never waits without one. */
export const TIMEOUTS_MS = {
  /** Reaching the destination: outside of the blackout, with time for a slow link. */
  dial: 15_000,
  /** From Offer to Accept, or HerdOffer to HerdAccept: admission only. */
  accept: 15_000,
  /** Handing one control message to a link that may be full. */
  send: 30_000,
  /** From Accept to Prepared, or from one TemplateProgress to the next: QEMU starts in 50 ms, on a loaded machine in seconds. */
  prepare: 60_000,
  /** All rounds together, as the destination waits for Finish: a slow link and a large VM. */
  rounds: 24 * 3_600_000,
  /** Places of a herd, from one move of its source to the next: a source begins the next when one has ended. */
  herdIdle: 5 * 60_000,
  /** From one frame of pages to the next, up to Finish: 1 MiB at 9 kB/s. */
  pagesSilence: 120_000,
  /** From the end of a round's sending to RoundApplied. */
  applyRound: 60_000,
  /** From Finish to Ready: the destination loads device state. */
  ready: 30_000,
  /** From Ready to Grant: nothing is decided yet, so the destination may give up. */
  grant: 30_000,
  /** Saying why a move failed. */
  farewell: 1_000,
  /** From Grant to Running; after it the move is in doubt. */
  running: 10_000,
  /** One question about a Grant. */
  verdict: 10_000,
  /** How long `migrate` waits for an answer before it reports in doubt; asking goes on. */
  doubtReport: 15_000,
} as const

/**
 * What a guest may stand still before the Grant when nobody said less: a
 * destination that hangs in the blackout must not keep it. The last round of a
 * guest that writes as fast as a slow link carries may take seconds.
 */
export const DEFAULT_MAX_BLACKOUT_MS = 30_000

/** Between two questions about a Grant: doubled from the first up to the last. */
export const VERDICT_RETRY_MS = { first: 250, last: 30_000 } as const

/** Moves that one node sends or receives at a time. */
export const MAX_MOVES = 16
/** Of those, moves that one peer may have under way to here; a source keeps to it by waiting. */
export const MAX_ARRIVALS_PER_PEER = 8
/** Moves from here that run or wait for their turn: four of the largest herds. */
export const MAX_DEPARTURES = 256
/** Herds that one peer may have places for at a time: commands that overlap. What they hold is memory, admitted. */
export const MAX_HERDS_PER_PEER = 8
/** References in one round: which of them led nowhere is told at its end, in 128 KiB of RoundApplied. 4 GiB of pages. */
export const MAX_ROUND_REFERENCES = 2 ** 20
