const transfers = new WeakMap<object, ArrayBuffer[]>()

/**
 * Marks buffers in a job's answer that are moved to the other thread, not copied.
 * Each must be of this answer alone: none of Node's pool.
 */
export function transferring<T extends object>(answer: T, arrays: readonly ArrayBufferView[]): T {
  // Empty ones may share a buffer.
  const buffers = arrays.filter(({ byteLength }) => byteLength > 0).map(({ buffer }) => buffer as ArrayBuffer)
  transfers.set(answer, buffers)
  return answer
}

/** The buffers that were marked so. */
export function transfersOf(answer: unknown): ArrayBuffer[] {
  return typeof answer === 'object' && answer !== null ? (transfers.get(answer) ?? []) : []
}
