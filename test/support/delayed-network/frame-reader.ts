/** Before each Ethernet frame on QEMU's `-netdev stream`: its length, big-endian. */
export const HEADER_BYTES = 4

/** Cuts what arrives on such a stream into frames, header included. */
export class FrameReader {
  #received: Buffer = Buffer.alloc(0)

  /** @returns the frames that are whole now */
  push(bytes: Buffer): Buffer[] {
    this.#received = this.#received.length === 0 ? bytes : Buffer.concat([this.#received, bytes])
    const frames: Buffer[] = []
    for (;;) {
      const received = this.#received
      if (received.length < HEADER_BYTES) return frames
      const frameBytes = HEADER_BYTES + received.readUInt32BE()
      if (received.length < frameBytes) return frames
      frames.push(received.subarray(0, frameBytes))
      this.#received = received.subarray(frameBytes)
    }
  }
}
