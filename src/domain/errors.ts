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

/** The body of any thrown value; what is not a DroverError is INTERNAL. */
export function errorBody(error: unknown): ErrorBody {
  if (error instanceof DroverError) {
    return { code: error.code, message: error.message, details: error.details }
  }
  const message = error instanceof Error ? error.message : String(error)
  return { code: 'INTERNAL', message, details: {} }
}
