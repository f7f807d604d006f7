/**
 * A two-way stream of whole messages between two agents. The only thing that
 * migration and template transfer know of the network: libp2p streams, an
 * in-memory pair and pairs that drop, delay or corrupt all look like this.
 */
export interface Channel {
  /** Peer at the other end, as its peer id. */
  readonly peer: string
  /** Payload and framing that went through so far. */
  readonly bytesSent: number
  readonly bytesReceived: number

  /**
   * Resolves when the message is handed on and there is room for the next:
   * awaiting it is the back-pressure.
   */
  send(message: Uint8Array, options?: { signal?: AbortSignal }): Promise<void>

  /**
   * The next message, at most `maxBytes` long, or null once the peer has closed its side.
   * The bytes may be a view that is valid until the next call; with `into` they are a view on its beginning.
   *
   * @throws WireError MESSAGE_TOO_LARGE before the message is read
   */
  receive(options: {
    maxBytes: number
    signal?: AbortSignal
    /** Where the message is put; it has room for `maxBytes`. */
    into?: Uint8Array
  }): Promise<Uint8Array | null>

  /** Ends our side after everything sent has left. */
  close(): Promise<void>
  /** Ends both sides at once; the peer sees a reset. */
  abort(error: Error): void
}

/** Opens a channel to a peer, for one protocol. Never in the blackout: open before. */
export type OpenChannel = (peer: string, protocol: string, signal: AbortSignal) => Promise<Channel>

/** Serves channels that peers open for one protocol. Failure aborts the channel. */
export type ChannelHandler = (channel: Channel, signal: AbortSignal) => Promise<void>
