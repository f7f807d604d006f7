import { DroverError, type ErrorCodes, type ErrorInit } from '../domain/errors.ts'
import type { PeerIdText } from '../domain/vm.ts'

export const MIGRATION_ERRORS = {
  MIGRATION_NOT_FOUND: 'refused',
  MIGRATION_CANCELLED: 'cancelled',
  MIGRATION_INTERRUPTED: 'failed',
  MIGRATION_TIMEOUT: 'failed',
  CANCEL_TOO_LATE: 'refused',
  NOT_IN_DOUBT: 'refused',
  ALREADY_HERE: 'refused',
  TOO_MANY_MOVES: 'refused',
  VM_BUSY: 'refused',
  QEMU_TOO_OLD: 'refused',
  DEVICE_STATE_TOO_LARGE: 'refused',
  BLACKOUT_TOO_LONG: 'failed',
  DIGEST_MISMATCH: 'failed',
  PAGE_THREAD_ENDED: 'failed',
  PEER_ABORTED: 'failed',
  PEER_LOST: 'failed',
  PROTOCOL_VIOLATION: 'failed',
  IN_DOUBT: 'in-doubt',
} as const satisfies ErrorCodes

export class MigrationError extends DroverError<keyof typeof MIGRATION_ERRORS> {
  constructor(code: keyof typeof MIGRATION_ERRORS, message: string, init?: ErrorInit) {
    super(code, MIGRATION_ERRORS[code], message, init)
  }
}

/** @param cause - what kept the destination's word from coming */
export function inDoubt(vm: string, destination: PeerIdText, cause?: unknown): MigrationError {
  return new MigrationError(
    'IN_DOUBT',
    `'${vm}' may run at the destination or not: it stays paused here, and the destination is asked again until it ` +
      'answers; `drover migration resolve` decides for it if that node is lost',
    { cause, details: { destination } },
  )
}

/** The destination said no, with its own code: the VM stays where it is. */
export class RefusedError extends DroverError {
  /** @param detailsJson - the peer's details, a JSON object; anything else is left out */
  constructor(code: string, message: string, detailsJson: string) {
    super(code, 'refused', `the destination refused: ${message}`, { details: parseDetails(detailsJson) })
  }
}

function parseDetails(json: string): Record<string, unknown> {
  try {
    const details: unknown = JSON.parse(json)
    return typeof details === 'object' && details !== null && !Array.isArray(details) ? { ...details } : {}
  } catch {
    return {}
  }
}
