import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { ProbeTarget } from '../../wire/probe-messages.ts'

/** Enough to drop two. */
export const SAMPLES = 5
/** Not in one burst: they would wait in the same queue. */
const SPACING_MS = 50
/** The first retransmission of a SYN comes after one second (RFC 6298, 2.1): what is later says nothing of the way. */
export const CONNECT_TIMEOUT_MS = 1_000
/** All of a probe. */
export const PROBE_TIMEOUT_MS = (SAMPLES - 1) * SPACING_MS + CONNECT_TIMEOUT_MS
/** So many of them must be answered: half of a flaky host's answers are those of its good moments. */
const MIN_ANSWERS = 3

/**
 * The round trip to a host by TCP: SAMPLES connects, each ended as soon as it
 * is made or refused. Takes PROBE_TIMEOUT_MS at most; needs no privilege.
 *
 * @param signal - ends it: null then
 * @returns ms, see `typicalMs`; null: not measured, as fewer than MIN_ANSWERS came back
 */
export async function probeRttMs(target: ProbeTarget, signal: AbortSignal): Promise<number | null> {
  const connects = Array.from({ length: SAMPLES }, async (_, index) => {
    await sleep(index * SPACING_MS, undefined, { signal })
    return connectMs(target, signal)
  })
  const settled = await Promise.allSettled(connects)
  const samplesMs = settled.flatMap((connect) =>
    connect.status === 'fulfilled' && connect.value !== null ? [connect.value] : [],
  )
  return samplesMs.length < MIN_ANSWERS ? null : typicalMs(samplesMs)
}

/** Of a normal distribution, the standard deviation over the median absolute deviation. */
const MAD_TO_DEVIATION = 1.4826
const MAX_DEVIATIONS = 3

/**
 * The median, after samples further than three deviations from it were dropped
 * (the Hampel identifier: L. Davies, U. Gather, "The Identification of Multiple
 * Outliers", Journal of the American Statistical Association 88, 1993). What a
 * busy machine or a full queue adds to single samples is gone then.
 *
 * @param samplesMs - at least one
 */
export function typicalMs(samplesMs: readonly number[]): number {
  const middleMs = median(samplesMs)
  const deviationMs = MAD_TO_DEVIATION * median(samplesMs.map((ms) => Math.abs(ms - middleMs)))
  return median(samplesMs.filter((ms) => Math.abs(ms - middleMs) <= MAX_DEVIATIONS * deviationMs))
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const half = sorted.length / 2
  return (sorted[Math.ceil(half) - 1]! + sorted[Math.floor(half)]!) / 2
}

/** @returns null: no answer in time, or one that isn't the host's, such as that there is no way to it */
function connectMs({ address, port }: ProbeTarget, signal: AbortSignal): Promise<number | null> {
  const { promise, resolve } = Promise.withResolvers<number | null>()
  const bounded = AbortSignal.any([signal, AbortSignal.timeout(CONNECT_TIMEOUT_MS)])
  const startMs = performance.now()
  const socket = connect({ host: address, port })
  const answered = (): void => resolve(performance.now() - startMs)
  const silent = (): void => resolve(null)
  socket.once('connect', answered)
  // A refusal takes the same round trip.
  socket.on('error', ({ code }: NodeJS.ErrnoException) => (code === 'ECONNREFUSED' ? answered() : silent()))
  bounded.addEventListener('abort', silent, { once: true })
  return promise.finally(() => {
    bounded.removeEventListener('abort', silent)
    // A close, not a reset, which servers that forget to listen for errors die of.
    socket.destroy()
  })
}
