import type { RoundReport } from '../domain/migration.ts'
import { MAX_DEVICE_STATE_WIRE_BYTES } from '../wire/migration-messages.ts'
import type { MoveBoundary } from './boundaries.ts'
import { MigrationError } from './errors.ts'
import type { SourceHandover } from './handover.ts'
import type { MoveMeter } from './meter.ts'
import { TIMEOUTS_MS } from './protocol.ts'
import type { SourceSession } from './session.ts'

/** What the switchover needs of the move that it belongs to. */
export interface SwitchOverMove {
  handover: SourceHandover
  meter: MoveMeter
  sendRound: (signal: AbortSignal) => Promise<RoundReport>
  /** The last page is known: what the Grant will name. */
  settleOn: (digest: Uint8Array) => void
  /** Finish is sent: starts to write that the Grant may have left. */
  doubt: () => void
  onBoundary: (boundary: MoveBoundary<'source'>) => void
  /** QEMU is being told to stop the guest. */
  onStopping: () => void
}

/**
 * Stops the guest and hands over what is left of it: the first part of the
 * blackout, up to Ready.
 *
 * @returns the digest that both sides agree on
 * @throws MigrationError DIGEST_MISMATCH, DEVICE_STATE_TOO_LARGE
 */
export async function switchOver(
  session: SourceSession,
  { handover, meter, sendRound, settleOn, doubt, onBoundary, onStopping }: SwitchOverMove,
  signal: AbortSignal,
): Promise<Uint8Array> {
  const { control, capture } = session
  const { report } = meter
  const { way } = capture
  const stoppedMs = way.stoppedAtMs ?? performance.now()
  handover.on('stopped')
  const stopping = way.stop(signal)
  onStopping()
  await stopping
  onBoundary('stopped')
  const { round, compressedState, deviceStateBytes } = await way.finish(
    () => sendRound(signal),
    () => onBoundary('state-saved'),
    signal,
  )
  round.ms = performance.now() - stoppedMs
  report.rounds.push(round)
  if (compressedState.length > MAX_DEVICE_STATE_WIRE_BYTES) {
    throw new MigrationError(
      'DEVICE_STATE_TOO_LARGE',
      `${compressedState.length} bytes of compressed device state`,
    )
  }
  report.bytes.deviceState = compressedState.length
  const digest = await capture.digest()
  settleOn(digest)
  await control.send(
    {
      kind: 'finish',
      deviceState: compressedState,
      deviceStateBytes,
      digest,
      rounds: report.rounds.length,
      pausedNs: Math.round((performance.now() - (way.stoppedAtMs ?? stoppedMs) + session.rttMs / 2) * 1e6),
    },
    signal,
  )
  handover.on('finish-sent')
  doubt()
  onBoundary('finish-sent')
  await control.receive(['roundApplied'], { timeoutMs: TIMEOUTS_MS.applyRound, signal })
  const ready = await control.receive(['ready'], { timeoutMs: TIMEOUTS_MS.ready, signal })
  if (!Buffer.from(ready.digest).equals(digest)) {
    throw new MigrationError('DIGEST_MISMATCH', 'the destination holds other pages than were sent')
  }
  report.digest = 'verified'
  onBoundary('ready-heard')
  return digest
}
