import type { FastifyReply } from 'fastify'
import type { z } from 'zod'
import { DroverError, errorBody, type Outcome } from '../../domain/errors.ts'
import { type ApiError, NDJSON } from '../api-schema.ts'
import { AgentError } from '../errors.ts'

const STATUS: Readonly<Record<Outcome, number>> = {
  usage: 400,
  refused: 409,
  cancelled: 499,
  failed: 500,
  'in-doubt': 503,
}

/** @throws AgentError REQUEST_INVALID naming the field */
export function checked<T extends z.ZodType>(schema: T, body: unknown): z.output<T> {
  const result = schema.safeParse(body)
  if (result.success) return result.data
  const [issue] = result.error.issues
  const field = issue?.code === 'unrecognized_keys' ? issue.keys.join(', ') : (issue?.path.join('.') ?? '')
  throw new AgentError('REQUEST_INVALID', `${field === '' ? 'request' : field}: ${issue?.message}`, {
    details: { field },
  })
}

/** What a client learns of a thrown value, and the status that goes with it. */
export function apiError(error: unknown): { status: number; error: ApiError } {
  const outcome = outcomeOf(error)
  const body = errorBody(error)
  if (outcome === 'cancelled' && body.code === 'INTERNAL') body.code = 'CANCELLED'
  return { status: STATUS[outcome], error: { ...body, outcome } }
}

function outcomeOf(error: unknown): Outcome {
  if (error instanceof DroverError) return error.outcome
  return error instanceof Error && error.name === 'AbortError' ? 'cancelled' : 'failed'
}

/** Aborted when the client closes its connection before it has its answer. */
export function closeSignal(reply: FastifyReply): AbortSignal {
  const closed = new AbortController()
  reply.raw.once('close', () => closed.abort())
  return closed.signal
}

/** Of a command that tells of no progress. */
export function commandOptions(reply: FastifyReply): { signal: AbortSignal; onProgress: () => void } {
  return { signal: closeSignal(reply), onProgress: () => {} }
}

/**
 * Answers with NDJSON. An error before the first line is an ordinary error
 * reply, with its status. Progress is dropped while the client reads slower
 * than it comes: only the newest matters, and nothing piles up.
 */
export async function streamReply<Progress, Result>(
  reply: FastifyReply,
  run: (progress: (value: Progress) => void, signal: AbortSignal) => Promise<Result>,
): Promise<void> {
  const raw = reply.raw
  const signal = closeSignal(reply)
  const begin = () => {
    if (raw.headersSent) return
    reply.hijack()
    raw.writeHead(200, { 'content-type': NDJSON })
  }
  const progress = (value: Progress) => {
    if (signal.aborted || raw.writableNeedDrain) return
    begin()
    raw.write(`${JSON.stringify({ progress: value })}\n`)
  }
  try {
    const result = await run(progress, signal)
    begin()
    raw.end(`${JSON.stringify({ result })}\n`)
  } catch (error) {
    if (!raw.headersSent) throw error
    raw.end(`${JSON.stringify({ error: apiError(error).error })}\n`)
  }
}
