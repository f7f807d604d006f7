import { DroverError, type ErrorCodes, type ErrorInit } from '../domain/errors.ts'

export const MESH_ERRORS = {
  PEER_NOT_FOUND: 'refused',
  PEER_AMBIGUOUS: 'refused',
  PEER_UNREACHABLE: 'failed',
  PEER_REMOVED: 'refused',
  PEER_IS_SELF: 'refused',
  TOO_MANY_REMOVALS: 'refused',
  PROTOCOL_UNSUPPORTED: 'refused',
  TOKEN_MALFORMED: 'usage',
  BOOTSTRAP_INVALID: 'usage',
  MESH_ALREADY_JOINED: 'refused',
  MESH_NOT_RUNNING: 'failed',
  KEY_FILE_DAMAGED: 'failed',
  LISTEN_FAILED: 'failed',
  CHANNEL_CLOSED: 'failed',
  CHANNEL_RESET: 'failed',
  TOO_MANY_CHANNELS: 'failed',
} as const satisfies ErrorCodes

/** Nodes that can't be found, reached or let in, and channels that broke. */
export class MeshError extends DroverError<keyof typeof MESH_ERRORS> {
  constructor(code: keyof typeof MESH_ERRORS, message: string, init?: ErrorInit) {
    super(code, MESH_ERRORS[code], message, init)
  }
}
