/** Sent before the rate says anything: until then socket buffers swallow what comes. */
const SETTLING_BYTES = 8 * 1024 * 1024
/** The rate is that of about so many bytes. */
const WINDOW_BYTES = 8 * 1024 * 1024

/** What the link to a peer carries, from how long sends to it wait: noise and yamux included. */
export class LinkRate {
  #sentBytes = 0
  #bytes = 0
  #ms = 0

  /** Null before so much was sent that buffers no longer hide it. */
  get bytesPerMs(): number | null {
    return this.#ms > 0 ? this.#bytes / this.#ms : null
  }

  /** Sends, and notes how long it took. */
  async timed(bytes: number, send: () => Promise<void>): Promise<void> {
    const startedMs = performance.now()
    await send()
    this.#sentBytes += bytes
    if (this.#sentBytes < SETTLING_BYTES) return
    const kept = Math.max(0, 1 - bytes / WINDOW_BYTES)
    this.#bytes = this.#bytes * kept + bytes
    this.#ms = this.#ms * kept + performance.now() - startedMs
  }
}
