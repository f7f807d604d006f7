import { EventEmitter, once } from 'node:events'
import type { Stream, StreamCloseEvent, StreamMessageEvent } from '@libp2p/interface'
import { Uint8ArrayList } from 'uint8arraylist'
import type { Channel } from '../wire/channel.ts'
import { WireError } from '../wire/errors.ts'
import { MeshError } from './errors.ts'

/**
 * Messages on a libp2p stream:
 *
 *     be32 length | length bytes          as often as wanted, then the stream's end
 *
 * A fixed header makes every message one `send` of a list of two views, no
 * copy, and lets a length be refused as soon as it is read. libp2p's own
 * `lpStream` does neither end's pace: it never pauses the stream, so a slow
 * reader's buffer grows until the stream is reset, and its writes wait with
 * `onDrain()`, which (@libp2p/utils 7.4) keeps one promise for the life of the
 * stream and so returns at once from the second time on.
 *
 * Against a slow reader a channel holds at most what is being read,
 * READ_AHEAD_BYTES, and twice yamux's window: once here, once in the stream.
 */
const HEADER_BYTES = 4

/** Taken from the stream before anybody asks: enough that the next message is there while one is worked on. */
const READ_AHEAD_BYTES = 256 * 1024

/** What was sent has left before `close` begins; this is for a connection that hangs. */
const CLOSE_TIMEOUT_MS = 30_000

/** @see Channel; one `receive` at a time. An aborted `send` may still arrive: abort the channel then. */
export class StreamChannel implements Channel {
  readonly peer: string
  bytesSent = 0
  bytesReceived = 0
  readonly #stream: Stream
  readonly #unread = new Uint8ArrayList()
  readonly #changes = new EventEmitter()
  /** What the reader waits for, header included; 0 when nobody does. */
  #wantedBytes = 0
  #resuming = false
  /** The peer said that it has finished: not the same as a connection that went away. */
  #peerEnded: boolean
  #ended: Promise<void> | null = null
  #readFailure: Error | null = null
  #writeFailure: Error | null = null

  /**
   * Takes the stream over: nobody else may read or write it.
   *
   * @param peer - peer id of the other end
   */
  constructor(stream: Stream, peer: string) {
    this.peer = peer
    this.#stream = stream
    this.#peerEnded = stream.status === 'open' && stream.remoteWriteStatus === 'closed'
    // Every waiting send and receive listens.
    this.#changes.setMaxListeners(0)
    stream.addEventListener('message', (event) => this.#onMessage(event))
    stream.addEventListener('remoteCloseWrite', () => this.#onPeerEnded())
    stream.addEventListener('drain', () => this.#notify())
    stream.addEventListener('idle', () => this.#notify())
    stream.addEventListener('end', () => this.#notify())
    stream.addEventListener('close', (event) => this.#onClose(event))
    if (stream.status !== 'open') this.#fail(new MeshError('CHANNEL_RESET', `the channel to ${peer} was cut`))
  }

  /** @throws MeshError CHANNEL_CLOSED, CHANNEL_RESET */
  async send(message: Uint8Array, { signal }: { signal?: AbortSignal } = {}): Promise<void> {
    signal?.throwIfAborted()
    if (this.#ended !== null)
      throw new MeshError('CHANNEL_CLOSED', `send on a closed channel to ${this.peer}`)
    if (this.#writeFailure !== null) throw this.#writeFailure
    const header = Buffer.allocUnsafe(HEADER_BYTES)
    header.writeUInt32BE(message.length)
    try {
      this.#stream.send(new Uint8ArrayList(header, message))
    } catch (cause) {
      throw (
        this.#writeFailure ?? new MeshError('CHANNEL_RESET', `the channel to ${this.peer} was cut`, { cause })
      )
    }
    this.bytesSent += HEADER_BYTES + message.length
    await this.#flushed(signal)
  }

  /** @throws WireError MESSAGE_TOO_LARGE; MeshError CHANNEL_RESET, also when the peer ends inside a message */
  async receive({
    maxBytes,
    signal,
    into,
  }: {
    maxBytes: number
    signal?: AbortSignal
    into?: Uint8Array
  }): Promise<Uint8Array | null> {
    signal?.throwIfAborted()
    if (!(await this.#available(HEADER_BYTES, signal))) return null
    const length = this.#unread.getUint32(0)
    if (length > maxBytes) {
      throw new WireError('MESSAGE_TOO_LARGE', `a message of ${length} bytes, at most ${maxBytes} expected`)
    }
    const end = HEADER_BYTES + length
    await this.#available(end, signal)
    const message = this.#take(end, into)
    this.bytesReceived += end
    this.#pace()
    return message
  }

  /** The message that ends there, out of what was read. */
  #take(end: number, into: Uint8Array | undefined): Uint8Array {
    if (into === undefined) {
      const message = this.#unread.subarray(HEADER_BYTES, end)
      this.#unread.consume(end)
      return message
    }
    this.#unread.consume(HEADER_BYTES)
    const length = end - HEADER_BYTES
    let position = 0
    for (const part of this.#unread) {
      const wanted = part.subarray(0, length - position)
      into.set(wanted, position)
      position += wanted.length
      if (position === length) break
    }
    this.#unread.consume(length)
    return into.subarray(0, length)
  }

  /** @throws MeshError CHANNEL_RESET when what was sent can't leave in time */
  close(): Promise<void> {
    this.#ended ??= this.#end()
    return this.#ended
  }

  abort(error: Error): void {
    this.#fail(error)
    this.#stream.abort(error)
  }

  async #end(): Promise<void> {
    if (this.#writeFailure !== null) return
    const signal = AbortSignal.timeout(CLOSE_TIMEOUT_MS)
    try {
      await this.#flushed(signal)
      await this.#stream.close({ signal })
    } catch (cause) {
      const error = new MeshError('CHANNEL_RESET', `the channel to ${this.peer} could not be closed`, {
        cause,
      })
      this.abort(error)
      throw error
    }
  }

  /** Until everything sent is with the connection, and it takes more. */
  async #flushed(signal: AbortSignal | undefined): Promise<void> {
    while (this.#stream.writeBufferLength > 0 || this.#stream.writableNeedsDrain) {
      if (this.#writeFailure !== null) throw this.#writeFailure
      await this.#change(signal)
    }
  }

  /** Until so many bytes are here; false at the peer's end, if that comes between two messages. */
  async #available(bytes: number, signal: AbortSignal | undefined): Promise<boolean> {
    this.#wantedBytes = bytes
    try {
      for (;;) {
        if (this.#readFailure !== null) throw this.#readFailure
        this.#pace()
        if (this.#unread.byteLength >= bytes) return true
        if (this.#peerEnded && this.#stream.readBufferLength === 0) return this.#atEnd()
        await this.#change(signal)
      }
    } finally {
      this.#wantedBytes = 0
    }
  }

  #atEnd(): false {
    if (this.#unread.byteLength === 0) return false
    throw new MeshError('CHANNEL_RESET', `${this.peer} ended the channel inside a message`)
  }

  /** Stops the stream when enough is here, so that yamux stops the peer; lets it go on when it isn't. */
  #pace(): void {
    const stream = this.#stream
    if (stream.readStatus === 'paused' && !this.#isFull()) {
      // A pause from inside `resume` would leave yamux granting window to a
      // paused stream, until its read buffer overflows: look again afterwards.
      this.#resuming = true
      try {
        stream.resume()
      } catch {
        // The connection is gone: what it had left has been handed over all the same.
      } finally {
        this.#resuming = false
      }
    }
    if (stream.readStatus === 'readable' && !this.#resuming && this.#isFull()) stream.pause()
  }

  #isFull(): boolean {
    return this.#unread.byteLength >= this.#wantedBytes + READ_AHEAD_BYTES
  }

  #onMessage({ data }: StreamMessageEvent): void {
    this.#unread.append(data)
    if (!this.#resuming) this.#pace()
    this.#notify()
  }

  #onPeerEnded(): void {
    this.#peerEnded = true
    this.#notify()
  }

  #onClose({ error }: StreamCloseEvent): void {
    const failure = new MeshError('CHANNEL_RESET', `the channel to ${this.peer} was cut`, { cause: error })
    this.#writeFailure ??= failure
    // A connection that is lost closes its streams without an error.
    if (error !== undefined || !this.#peerEnded) this.#readFailure ??= failure
    this.#notify()
  }

  #fail(error: Error): void {
    this.#writeFailure ??= error
    this.#readFailure ??= error
    this.#unread.consume(this.#unread.byteLength)
    this.#notify()
  }

  #notify(): void {
    this.#changes.emit('change')
  }

  async #change(signal: AbortSignal | undefined): Promise<void> {
    try {
      await once(this.#changes, 'change', signal === undefined ? {} : { signal })
    } catch (error) {
      signal?.throwIfAborted()
      throw error
    }
  }
}
