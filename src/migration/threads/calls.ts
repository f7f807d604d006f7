import { DroverError, type ErrorInit, type Outcome } from '../../domain/errors.ts'
import type { ArrivalInit, ArrivalJob } from './arrival-job.ts'
import type { CaptureInit, CaptureJob } from './capture-job.ts'

/**
 * What goes between the agent and its page threads: a job is an object that
 * lives in a thread, a call is one of its methods. Answers come in the order of
 * the calls of a job.
 *
 *     main                                 page thread
 *     {id, open: kind, init}            -> makes the job
 *     {id, call: method, args}...       -> runs it, with no other one in between unless it waits
 *     {id, close}                       -> lets go of what the job holds
 *                                       <- {id, value} | {id, error}, one for each
 */
export interface Jobs {
  capture: { job: CaptureJob; init: CaptureInit }
  arrival: { job: ArrivalJob; init: ArrivalInit }
}
export type JobKind = keyof Jobs

/** The methods of a job that may be called from another thread. */
export type MethodOf<J> = {
  [M in keyof J]: J[M] extends (...args: never[]) => unknown ? M : never
}[keyof J] &
  string
export type ArgsOf<J, M extends MethodOf<J>> = J[M] extends (...args: infer A) => unknown ? A : never
export type ValueOf<J, M extends MethodOf<J>> = J[M] extends (...args: never[]) => infer R
  ? Awaited<R>
  : never

export type ToThread =
  | { id: number; open: JobKind; init: Jobs[JobKind]['init'] }
  | { id: number; call: string; args: readonly unknown[] }
  | { id: number; close: true }

export type FromThread = { id: number; value: unknown } | { id: number; error: SentError }

/** An error as it crosses: classes don't. */
export interface SentError {
  code: string | null
  outcome: Outcome
  message: string
  details: Record<string, unknown>
  stack: string | undefined
}

export function sendError(error: unknown): SentError {
  const message = error instanceof Error ? error.message : String(error)
  const stack = error instanceof Error ? error.stack : undefined
  if (!(error instanceof DroverError)) return { code: null, outcome: 'failed', message, details: {}, stack }
  const { code, outcome, details } = error
  return { code, outcome, message, details, stack }
}

/** @returns an error with the code that it had in its thread, and what that one was as its cause */
export function receiveError({ code, outcome, message, details, stack }: SentError): Error {
  const cause = Object.assign(new Error(message), { stack })
  const init: ErrorInit = { details, cause }
  return code === null ? new Error(message, { cause }) : new DroverError(code, outcome, message, init)
}
