import { DroverError, type ErrorCodes, type ErrorInit } from '../domain/errors.ts'

export const QEMU_ERRORS = {
  QEMU_NOT_FOUND: 'refused',
  QEMU_NOT_USABLE: 'refused',
  KVM_NOT_USABLE: 'refused',
  QEMU_USER_NOT_USABLE: 'refused',
  LAUNCH_INVALID: 'usage',
  SOCKET_PATH_TOO_LONG: 'usage',
  QEMU_EXITED: 'failed',
  QEMU_STATE_NOT_SAVED: 'failed',
  QEMU_DISK_NOT_RELEASED: 'failed',
  QMP_ERROR: 'failed',
  QMP_TIMEOUT: 'failed',
  QMP_CLOSED: 'failed',
  NOT_MOVABLE: 'refused',
  INCOMING_FAILED: 'failed',
  INCOMING_MISUSED: 'failed',
  STATE_FILE_MALFORMED: 'failed',
  GENERATION_ID_NOT_FOUND: 'failed',
  OUTGOING_MALFORMED: 'failed',
  QEMU_MIGRATION_FAILED: 'failed',
} as const satisfies ErrorCodes

/** QEMU could not be started, driven or fed. */
export class QemuError extends DroverError<keyof typeof QEMU_ERRORS> {
  constructor(code: keyof typeof QEMU_ERRORS, message: string, init?: ErrorInit) {
    super(code, QEMU_ERRORS[code], message, init)
  }
}
