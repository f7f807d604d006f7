import { unlessAborted } from '../../src/domain/wait.ts'
import type { Channel } from '../../src/wire/channel.ts'
import { WireError } from '../../src/wire/errors.ts'

/** What a frame costs beside its payload: a 4-byte length, as on the real wire. */
export const FRAME_HEADER_BYTES = 4
/** As much as a yamux window holds before the reader has to take something. */
const MAX_BUFFERED_BYTES = 256 * 1024
/** What a received message is overwritten with once its view is no longer valid. */
const STALE_BYTE = 0xdb

/** The other side aborted, or this side did. */
export class ChannelResetError extends Error {
  readonly code = 'ERR_CHANNEL_RESET'
}

export interface ChannelPairOptions {
  /** Peer id of each end, as the other one sees it. */
  peers?: readonly [string, string]
  /** Bytes that may wait for a reader before `send` does. */
  maxBufferedBytes?: number
}

/** Messages on their way from one end to the other. */
class Pipe {
  readonly #maxBufferedBytes: number
  readonly #messages: Uint8Array[] = []
  #bufferedBytes = 0
  #ended = false
  /** What each end is told once the pipe is broken. */
  #broken: { sender: Error; reader: Error } | null = null
  #changed = Promise.withResolvers<void>()

  constructor(maxBufferedBytes: number) {
    this.#maxBufferedBytes = maxBufferedBytes
  }

  async push(message: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    signal?.throwIfAborted()
    if (this.#broken !== null) throw this.#broken.sender
    if (this.#ended) throw new ChannelResetError('send on a closed channel')
    this.#messages.push(message)
    this.#bufferedBytes += message.length + FRAME_HEADER_BYTES
    this.#notify()
    await this.#until(() => this.#bufferedBytes <= this.#maxBufferedBytes, 'sender', signal)
  }

  async shift(maxBytes: number, signal: AbortSignal | undefined): Promise<Uint8Array | null> {
    signal?.throwIfAborted()
    await this.#until(() => this.#messages.length > 0 || this.#ended, 'reader', signal)
    const [message] = this.#messages
    if (message === undefined) return null
    if (message.length > maxBytes) {
      throw new WireError(
        'MESSAGE_TOO_LARGE',
        `a message of ${message.length} bytes, at most ${maxBytes} expected`,
      )
    }
    this.#messages.shift()
    this.#bufferedBytes -= message.length + FRAME_HEADER_BYTES
    this.#notify()
    return message
  }

  end(): void {
    this.#ended = true
    this.#notify()
  }

  fail(told: { sender: Error; reader: Error }): void {
    this.#broken ??= told
    this.#messages.length = 0
    this.#notify()
  }

  async #until(
    condition: () => boolean,
    end: 'sender' | 'reader',
    signal: AbortSignal | undefined,
  ): Promise<void> {
    for (;;) {
      if (this.#broken !== null) throw this.#broken[end]
      if (condition()) return
      await (signal === undefined ? this.#changed.promise : unlessAborted(this.#changed.promise, signal))
    }
  }

  #notify(): void {
    const { resolve } = this.#changed
    this.#changed = Promise.withResolvers<void>()
    resolve()
  }
}

class PairedChannel implements Channel {
  readonly peer: string
  bytesSent = 0
  bytesReceived = 0
  readonly #outgoing: Pipe
  readonly #incoming: Pipe
  #lastReceived: Uint8Array | null = null

  constructor(peer: string, outgoing: Pipe, incoming: Pipe) {
    this.peer = peer
    this.#outgoing = outgoing
    this.#incoming = incoming
  }

  async send(message: Uint8Array, { signal }: { signal?: AbortSignal } = {}): Promise<void> {
    const sent = this.#outgoing.push(Uint8Array.from(message), signal)
    this.bytesSent += message.length + FRAME_HEADER_BYTES
    await sent
  }

  async receive({
    maxBytes,
    signal,
    into,
  }: {
    maxBytes: number
    signal?: AbortSignal
    into?: Uint8Array
  }): Promise<Uint8Array | null> {
    this.#lastReceived?.fill(STALE_BYTE)
    this.#lastReceived = null
    const message = await this.#incoming.shift(maxBytes, signal)
    if (message !== null) this.bytesReceived += message.length + FRAME_HEADER_BYTES
    this.#lastReceived = message
    if (message === null || into === undefined) return message
    into.set(message)
    return into.subarray(0, message.length)
  }

  async close(): Promise<void> {
    this.#outgoing.end()
  }

  abort(error: Error): void {
    const reset = new ChannelResetError('the other side aborted the channel', { cause: error })
    this.#incoming.fail({ sender: reset, reader: error })
    this.#outgoing.fail({ sender: error, reader: reset })
  }
}

/**
 * Two ends of one channel, in memory. Like the real thing it makes a sender
 * wait for a slow reader, copies what is sent, and reuses a received message's
 * memory: whoever keeps a view past the next `receive` reads 0xdb.
 */
export function channelPair({
  peers = ['peer-a', 'peer-b'],
  maxBufferedBytes = MAX_BUFFERED_BYTES,
}: ChannelPairOptions = {}): [Channel, Channel] {
  const there = new Pipe(maxBufferedBytes)
  const back = new Pipe(maxBufferedBytes)
  return [new PairedChannel(peers[1], there, back), new PairedChannel(peers[0], back, there)]
}
