import { once } from 'node:events'
import { createServer, type Server, type Socket } from 'node:net'
import { FrameReader, HEADER_BYTES } from './frame-reader.ts'

/** As the queue of a switch, what doesn't fit is dropped: TCP sends it again. */
const MAX_QUEUE_BYTES = 8 * 1024 * 1024

const MAC_BYTES = 6
/** In a MAC's first byte: for all. */
const GROUP_BIT = 1

/** MAC address of a host, which is how the switch knows whom a frame is for. */
export function macOf(host: number): string {
  return `02:00:00:00:00:${host.toString(16).padStart(2, '0')}`
}

/**
 * An Ethernet switch whose ports are unix sockets that QEMU's `-netdev stream`
 * dials. Each frame waits for as long as the way from its sender to its
 * receiver is; frames of one way keep their order.
 */
export class FrameSwitch implements AsyncDisposable {
  readonly #servers: Server[] = []
  readonly #ports = new Map<number, Socket>()
  /** By `wayKey`. */
  readonly #delaysMs = new Map<string, number>()

  /** Resolves when the host's adaptor has dialled `path`. */
  async plugIn(host: number, path: string, signal: AbortSignal): Promise<void> {
    const server = createServer((socket) => this.#attach(host, socket)).listen(path)
    this.#servers.push(server)
    await once(server, 'connection', { signal })
  }

  /** From now on; frames on their way arrive when they would have. */
  setDelay(from: number, to: number, delayMs: number): void {
    this.#delaysMs.set(wayKey(from, to), delayMs)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#ports.values()) socket.destroy()
    await Promise.all(this.#servers.map((server) => new Promise((resolve) => server.close(resolve))))
  }

  #attach(host: number, socket: Socket): void {
    this.#ports.set(host, socket)
    const frames = new FrameReader()
    socket.on('data', (bytes: Buffer) => {
      for (const frame of frames.push(bytes)) this.#forward(host, frame)
    })
    socket.on('close', () => this.#ports.delete(host))
    // 'close' follows: a host that ends with the test.
    socket.on('error', () => {})
  }

  #forward(from: number, frame: Buffer): void {
    const isForAll = (frame[HEADER_BYTES]! & GROUP_BIT) !== 0
    const to = frame[HEADER_BYTES + MAC_BYTES - 1]!
    for (const host of isForAll ? this.#ports.keys() : [to]) {
      // Timers of one length fire in the order in which they were set.
      if (host === from) continue
      setTimeout(() => this.#deliver(host, frame), this.#delaysMs.get(wayKey(from, host)) ?? 0)
    }
  }

  #deliver(host: number, frame: Buffer): void {
    const socket = this.#ports.get(host)
    if (socket?.writable && socket.writableLength < MAX_QUEUE_BYTES) socket.write(frame)
  }
}

function wayKey(from: number, to: number): string {
  return `${from}>${to}`
}
