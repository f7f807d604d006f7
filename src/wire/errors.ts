import { DroverError, type ErrorCodes, type ErrorInit } from '../domain/errors.ts'

export const WIRE_ERRORS = {
  MESSAGE_MALFORMED: 'failed',
  MESSAGE_TOO_LARGE: 'failed',
} as const satisfies ErrorCodes

/** Bytes from a peer that are not the message they should be. */
export class WireError extends DroverError<keyof typeof WIRE_ERRORS> {
  constructor(code: keyof typeof WIRE_ERRORS, message: string, init?: ErrorInit) {
    super(code, WIRE_ERRORS[code], message, init)
  }
}
