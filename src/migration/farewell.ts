import { errorBody } from '../domain/errors.ts'
import { type ControlBody, MAX_TEXT_LENGTH } from '../wire/migration-messages.ts'
import type { ControlChannel } from './control.ts'
import { RefusedError } from './errors.ts'
import { TIMEOUTS_MS } from './protocol.ts'

/** A destination that gives up says why on the control stream, and cuts the pages stream: a round finds only the cut. */
export async function peersReason(control: ControlChannel, error: unknown): Promise<unknown> {
  if (errorBody(error).code !== 'CHANNEL_RESET') return error
  const timeoutMs = TIMEOUTS_MS.farewell
  const signal = AbortSignal.timeout(timeoutMs)
  try {
    // What it said while it was still well comes first.
    for (;;) await control.receive(['prepared', 'roundApplied'], { timeoutMs, signal })
  } catch (reason) {
    const isPeers = reason instanceof RefusedError || errorBody(reason).code === 'PEER_ABORTED'
    return isPeers ? reason : error
  }
}

/** Says why before the channel is reset; a peer that can't be told finds the channel broken. */
export async function tellPeer(control: ControlChannel, error: unknown): Promise<void> {
  const { code, message } = errorBody(error)
  const body = { code, message: message.slice(0, MAX_TEXT_LENGTH) }
  await control.send({ kind: 'abort', ...body }, AbortSignal.timeout(TIMEOUTS_MS.farewell)).catch(() => {})
}

/** The Refuse that tells a source of an error. */
export function refuseFor(error: unknown): ControlBody<'refuse'> {
  const { code, message, details } = errorBody(error)
  const detailsJson = JSON.stringify(details)
  return { kind: 'refuse', code, message: message.slice(0, MAX_TEXT_LENGTH), detailsJson }
}
