import { DroverError, type ErrorCodes, type ErrorInit } from '../domain/errors.ts'

export const CLI_ERRORS = {
  AGENT_GONE: 'failed',
  AGENT_NOT_PERMITTED: 'refused',
  AGENT_TIMEOUT: 'failed',
  AGENT_UNREACHABLE: 'failed',
  CANCELLED: 'cancelled',
  USAGE: 'usage',
  VM_STOPPED: 'refused',
} as const satisfies ErrorCodes

/** What goes wrong before the agent is asked, or on the way to it. */
export class CliError extends DroverError<keyof typeof CLI_ERRORS> {
  constructor(code: keyof typeof CLI_ERRORS, message: string, init?: ErrorInit) {
    super(code, CLI_ERRORS[code], message, init)
  }
}

/** The agent's own error, with its code and outcome. */
export class RemoteError extends DroverError {}
