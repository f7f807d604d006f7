import { DroverError, type ErrorCodes, type ErrorInit } from '../domain/errors.ts'

export const VM_ERRORS = {
  VM_NOT_FOUND: 'refused',
  NODE_DRAINING: 'refused',
  NAME_INVALID: 'usage',
  NAME_TAKEN: 'refused',
  MAC_INVALID: 'usage',
  MAC_TAKEN: 'refused',
  PORT_TAKEN: 'refused',
  NO_FREE_SLOT: 'refused',
  NOT_ENOUGH_MEMORY: 'refused',
  TEMPLATE_NOT_RUNNABLE: 'refused',
  TEMPLATE_NOT_DERIVABLE: 'refused',
  OVERLAY_FAILED: 'failed',
  VM_RUNNING: 'refused',
  VM_STOPPED: 'refused',
  VM_PAUSED: 'refused',
  VM_BUSY: 'refused',
  VM_IN_DOUBT: 'in-doubt',
  VM_UNREACHABLE: 'failed',
  VM_STOP_TIMEOUT: 'failed',
  VM_DISK_NOT_MOVABLE: 'refused',
  VM_ALREADY_HERE: 'refused',
  VM_NOT_DEPARTING: 'failed',
  EPOCH_STALE: 'refused',
} as const satisfies ErrorCodes

/** A VM of this node that can't do, or be, what was asked. */
export class VmError extends DroverError<keyof typeof VM_ERRORS> {
  constructor(code: keyof typeof VM_ERRORS, message: string, init?: ErrorInit) {
    super(code, VM_ERRORS[code], message, init)
  }
}
