import { DroverError, type ErrorCodes, type ErrorInit } from '../domain/errors.ts'

export const CODEC_ERRORS = {
  BATCH_MALFORMED: 'failed',
  DEVICE_STATE_MALFORMED: 'failed',
} as const satisfies ErrorCodes

/** Encoded pages or device state from a peer that don't decode to what they claim. */
export class CodecError extends DroverError<keyof typeof CODEC_ERRORS> {
  constructor(code: keyof typeof CODEC_ERRORS, message: string, init?: ErrorInit) {
    super(code, CODEC_ERRORS[code], message, init)
  }
}
