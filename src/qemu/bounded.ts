/** How long to wait, and who may end the wait before. */
export interface Wait {
  timeoutMs?: number | undefined
  signal?: AbortSignal | undefined
}

/**
 * Waits for `promise` until the time is over or the signal aborts. Unlike
 * `AbortSignal.any` with a time-out signal it leaves nothing behind: thousands
 * of QMP commands share one signal for the life of an agent.
 *
 * @param timedOut - makes the error of a wait that took `timeoutMs`
 */
export async function bounded<T>(
  promise: Promise<T>,
  {
    timeoutMs,
    signal,
    timedOut,
  }: { timeoutMs: number; signal?: AbortSignal | undefined; timedOut: () => Error },
): Promise<T> {
  const ended = Promise.withResolvers<never>()
  const timer = setTimeout(() => ended.reject(timedOut()), timeoutMs)
  const abort = () => ended.reject(signal?.reason)
  if (signal?.aborted) abort()
  else signal?.addEventListener('abort', abort, { once: true })
  try {
    return await Promise.race([ended.promise, promise])
  } finally {
    clearTimeout(timer)
    signal?.removeEventListener('abort', abort)
  }
}
