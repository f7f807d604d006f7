import type { TemplateError } from './errors.ts'

/** What setTimeout can wait at most; more would fire at once. */
const MAX_TIMER_MS = 2 ** 31 - 1

/**
 * Bounds one wait: `work` gets a signal that is aborted with the caller's, or when the time is over.
 *
 * @param late - the error when the time is over, made from what `work` threw then
 */
export async function withinMs<T>(
  timeoutMs: number,
  signal: AbortSignal,
  work: (signal: AbortSignal) => Promise<T>,
  late: (cause: unknown) => TemplateError,
): Promise<T> {
  signal.throwIfAborted()
  const timeout = new AbortController()
  const reason = new DOMException(`${timeoutMs} ms are over`, 'TimeoutError')
  const timer = setTimeout(() => timeout.abort(reason), Math.min(timeoutMs, MAX_TIMER_MS))
  try {
    return await work(AbortSignal.any([signal, timeout.signal]))
  } catch (error) {
    if (timeout.signal.aborted && !signal.aborted) throw late(error)
    throw error
  } finally {
    clearTimeout(timer)
  }
}
