import { DroverError, type ErrorCodes, type ErrorInit } from '../domain/errors.ts'

export const AGENT_ERRORS = {
  AGENT_ALREADY_RUNNING: 'refused',
  ANSWER_MALFORMED: 'failed',
  CONFIG_INVALID: 'usage',
  DATA_DIR_UNUSABLE: 'refused',
  DRAIN_STOPPED: 'cancelled',
  GUEST_ENDED: 'failed',
  MACHINE_TYPE_UNKNOWN: 'refused',
  NO_DESTINATION: 'refused',
  OWNER_UNREACHABLE: 'failed',
  REQUEST_INVALID: 'usage',
  ROUTE_NOT_FOUND: 'usage',
  SOCKET_PATH_TOO_LONG: 'usage',
  TEMPLATE_ID_NEEDED: 'usage',
  TEMPLATE_NOT_ON_PEERS: 'refused',
  VM_AMBIGUOUS: 'refused',
} as const satisfies ErrorCodes

/** The agent itself can't start, can't boot a template, or got a request that makes no sense. */
export class AgentError extends DroverError<keyof typeof AGENT_ERRORS> {
  constructor(code: keyof typeof AGENT_ERRORS, message: string, init?: ErrorInit) {
    super(code, AGENT_ERRORS[code], message, init)
  }
}
