import { availableDiskBytes } from './disk-space.ts'

/**
 * What an error means for the person or script that caused it. The command
 * line turns it into an exit code; callers and tests look at `code` alone.
 */
export type Outcome = 'failed' | 'usage' | 'refused' | 'in-doubt' | 'cancelled'

export interface ErrorInit {
  /** Typed facts about the failure, safe to print and to send to a peer. */
  details?: Record<string, unknown>
  cause?: unknown
}

/** The codes of one room, each with what it means for the caller. */
export type ErrorCodes = Readonly<Record<string, Outcome>>

/**
 * Base of every error drover raises on purpose. Each room has one subclass in
 * its `errors.ts`, with the room's own codes; each code has a line in the
 * README saying when it happens and what to do.
 */
export class DroverError<Code extends string = string> extends Error {
  readonly code: Code
  readonly outcome: Outcome
  readonly details: Record<string, unknown>

  constructor(code: Code, outcome: Outcome, message: string, init: ErrorInit = {}) {
    super(message, init.cause === undefined ? undefined : { cause: init.cause })
    this.name = new.target.name
    this.code = code
    this.outcome = outcome
    this.details = init.details ?? {}
  }
}

/** Codes that every room raises. */
export const COMMON_ERRORS = { DISK_FULL: 'failed' } as const satisfies ErrorCodes

/** There is no room for what was to be written. What was begun is undone, and the agent goes on once there is room. */
export class DiskFullError extends DroverError<keyof typeof COMMON_ERRORS> {
  /**
   * @param path - what could not be written, or the directory that it was to be in
   * @param neededBytes - where that is known
   */
  constructor(path: string, { neededBytes, cause }: { neededBytes?: number; cause?: unknown } = {}) {
    const availableBytes = availableDiskBytes(path)
    const needed = neededBytes === undefined ? '' : `, ${mebibytes(neededBytes)} needed`
    const available = availableBytes === null ? '' : `, ${mebibytes(availableBytes)} available`
    super(
      'DISK_FULL',
      COMMON_ERRORS.DISK_FULL,
      `no room on the disk of ${path}${needed}${available}: free some, or remove templates (\`drover template gc\`), ` +
        'then try again; the agent needs no restart',
      { details: { path, availableBytes, ...(neededBytes === undefined ? {} : { neededBytes }) }, cause },
    )
  }
}

/** Less than one page batch: what goes wrong then goes wrong for want of space, whatever it calls that. */
const NOTHING_LEFT_BYTES = 1024 ** 2

/**
 * The full disk behind an error, however deep: that of a system call, or of one that is another error's cause.
 *
 * @param dir - where it was written to: when nothing is left there, any error counts, as QEMU dies of SIGBUS then
 * @returns null when it is about something else
 */
export function diskFullOf(error: unknown, dir?: string): DiskFullError | null {
  for (const cause of causesOf(error)) {
    if (cause instanceof DiskFullError) return cause
    const { code, path, dest } = cause as NodeJS.ErrnoException & { dest?: string }
    if (code === 'ENOSPC' || code === 'EDQUOT') {
      return new DiskFullError(dir ?? dest ?? path ?? 'the data directory', { cause: error })
    }
  }
  if (dir === undefined || (availableDiskBytes(dir) ?? Number.POSITIVE_INFINITY) >= NOTHING_LEFT_BYTES)
    return null
  return new DiskFullError(dir, { cause: error })
}

/** The error with a code that a thrown value is, or comes of; null for what nobody foresaw. */
export function codedError(error: unknown): DroverError | null {
  return error instanceof DroverError ? error : diskFullOf(error)
}

function* causesOf(error: unknown): Generator<object> {
  if (typeof error !== 'object' || error === null) return
  yield error
  const { cause, errors = [] } = error as Partial<AggregateError>
  const { error: thrown, suppressed } = error as Partial<SuppressedError>
  for (const inner of [cause, thrown, suppressed, ...errors]) yield* causesOf(inner)
}

function mebibytes(bytes: number): string {
  return `${(bytes / 1024 ** 2).toFixed(1)} MiB`
}

export const POLICY_ERRORS = { NOT_PERMITTED: 'refused' } as const satisfies ErrorCodes

/** A node doesn't let another one do that: see policy.ts. */
export class PolicyError extends DroverError<keyof typeof POLICY_ERRORS> {
  constructor(code: keyof typeof POLICY_ERRORS, message: string, init?: ErrorInit) {
    super(code, POLICY_ERRORS[code], message, init)
  }
}

/** What of an error crosses the wire or the local API. */
export interface ErrorBody {
  code: string
  message: string
  details: Record<string, unknown>
}

/** The body of any thrown value; what has no code is INTERNAL. */
export function errorBody(error: unknown): ErrorBody {
  const coded = codedError(error)
  if (coded !== null) return { code: coded.code, message: coded.message, details: coded.details }
  const message = error instanceof Error ? error.message : String(error)
  return { code: 'INTERNAL', message, details: {} }
}
