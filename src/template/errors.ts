import { DroverError, type ErrorCodes, type ErrorInit } from '../domain/errors.ts'

export const TEMPLATE_ERRORS = {
  MANIFEST_MALFORMED: 'failed',
  MACHINE_INVALID: 'usage',
  NAME_INVALID: 'usage',
  NAME_TAKEN: 'refused',
  TEMPLATE_AMBIGUOUS: 'usage',
  TEMPLATE_DAMAGED: 'failed',
  TEMPLATE_FILE_UNREADABLE: 'usage',
  TEMPLATE_INCOMPLETE: 'failed',
  TEMPLATE_IN_USE: 'refused',
  TEMPLATE_MISMATCH: 'failed',
  TEMPLATE_NOT_FOUND: 'refused',
  TEMPLATE_NOT_READY: 'failed',
  TEMPLATE_REFUSED: 'refused',
  TEMPLATE_TIMEOUT: 'failed',
  TOO_MANY_FETCHES: 'refused',
} as const satisfies ErrorCodes

/** What went wrong with a template: its content, its name, or a peer that should have sent it. */
export class TemplateError extends DroverError<keyof typeof TEMPLATE_ERRORS> {
  constructor(code: keyof typeof TEMPLATE_ERRORS, message: string, init?: ErrorInit) {
    super(code, TEMPLATE_ERRORS[code], message, init)
  }
}
