import { DroverError } from '../domain/errors.ts'
import type { Channel } from '../wire/channel.ts'
import {
  type ControlBody,
  type ControlKind,
  type ControlMessage,
  controlCodec,
  MAX_CONTROL_BYTES,
} from '../wire/migration-messages.ts'
import { MigrationError, RefusedError } from './errors.ts'
import { TIMEOUTS_MS } from './protocol.ts'

/** The control messages of one move over a channel. */
export class ControlChannel {
  readonly #channel: Channel

  constructor(channel: Channel) {
    this.#channel = channel
  }

  /** @throws MigrationError PEER_LOST, MIGRATION_TIMEOUT; the signal's reason */
  async send(message: ControlMessage, signal: AbortSignal): Promise<void> {
    const timeout = AbortSignal.timeout(TIMEOUTS_MS.send)
    try {
      await this.#channel.send(controlCodec.encode(message), { signal: AbortSignal.any([signal, timeout]) })
    } catch (cause) {
      signal.throwIfAborted()
      if (timeout.aborted) {
        throw new MigrationError('MIGRATION_TIMEOUT', `the peer took no '${message.kind}' in time`, { cause })
      }
      throw new MigrationError('PEER_LOST', 'the connection to the peer broke', { cause })
    }
  }

  /**
   * The next message, which must be one of `kinds`.
   *
   * @throws RefusedError when the destination says no instead, at first or later; MigrationError PEER_ABORTED with
   *   the peer's code, PEER_LOST, PROTOCOL_VIOLATION, MIGRATION_TIMEOUT
   */
  async receive<K extends ControlKind>(
    kinds: readonly K[],
    { timeoutMs, signal }: { timeoutMs: number; signal: AbortSignal },
  ): Promise<ControlBody<K>> {
    // Node keeps a signal of `AbortSignal.timeout` that others depend on until it fires: this one may be for a day.
    const timeout = new AbortController()
    const timer = setTimeout(() => timeout.abort(), timeoutMs).unref()
    let bytes: Uint8Array | null
    try {
      bytes = await this.#channel.receive({
        maxBytes: MAX_CONTROL_BYTES,
        signal: AbortSignal.any([signal, timeout.signal]),
      })
    } catch (cause) {
      signal.throwIfAborted()
      if (cause instanceof DroverError && cause.code.startsWith('MESSAGE_')) throw cause
      if (timeout.signal.aborted) {
        throw new MigrationError(
          'MIGRATION_TIMEOUT',
          `no ${kinds.join(' or ')} from the peer in ${timeoutMs} ms`,
          {
            cause,
          },
        )
      }
      throw new MigrationError('PEER_LOST', 'the connection to the peer broke', { cause })
    } finally {
      clearTimeout(timer)
    }
    if (bytes === null) throw new MigrationError('PEER_LOST', 'the peer closed the connection')
    const message = controlCodec.decode(bytes)
    if ((kinds as readonly string[]).includes(message.kind)) return message as ControlBody<K>
    if (message.kind === 'refuse') {
      throw new RefusedError(message.code, message.message, message.detailsJson)
    }
    if (message.kind === 'abort') {
      throw new MigrationError('PEER_ABORTED', `the peer gave up: ${message.message}`, {
        details: { peerCode: message.code },
      })
    }
    throw new MigrationError('PROTOCOL_VIOLATION', `'${message.kind}' where ${kinds.join(' or ')} was due`)
  }
}
