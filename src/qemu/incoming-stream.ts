import type { Socket } from 'node:net'
import { PAGE_BYTES } from '../domain/page.ts'
import { bounded, type Wait } from './bounded.ts'
import { QemuError } from './errors.ts'
import {
  encodeBeginning,
  encodeEnd,
  encodePages,
  encodeZeroPages,
  isDeviceState,
  isPageOffset,
  type StreamBlock,
} from './stream-format.ts'

/** What the stream needs to know of the QEMU that reads it. */
export interface IncomingQemu {
  /** Resolves when QEMU has loaded everything; rejects with INCOMING_FAILED when it gave up. */
  loaded(wait: Wait): Promise<void>
  /** The error for a stream that broke, with QEMU's own words. */
  explain(cause: unknown): Promise<QemuError>
}

/** QEMU reads a MiB in a millisecond; one that reads nothing for so long hangs. */
const WRITE_TIMEOUT_MS = 30_000

type Phase = 'connected' | 'pages' | 'finished'

/**
 * Writes a VM into a QEMU that waits for one (layout: stream-format.ts).
 *
 *     begin → (writePages | writeZeroPages | writeEncoded)* → finish → loaded
 *
 * Each method resolves once the bytes are in the socket: awaiting it is the
 * back-pressure, and after it, not before, buffers may be used again. One that
 * fails or is aborted ends the stream. A PAGE
 * always makes a page private to the VM: what equals the template stays out.
 *
 * @throws QemuError INCOMING_FAILED when QEMU stops reading, INCOMING_MISUSED
 *   for calls out of order and pages outside of the blocks announced
 */
export class IncomingStream {
  readonly #socket: Socket
  readonly #qemu: IncomingQemu
  #phase: Phase = 'connected'
  #blocks = new Map<string, StreamBlock>()

  constructor(socket: Socket, qemu: IncomingQemu) {
    this.#socket = socket
    this.#qemu = qemu
    // Whoever writes or waits learns of it; a stream that nobody uses any more has nobody to tell.
    socket.on('error', () => {})
  }

  /** Header, configuration and the RAM blocks whose pages may follow. */
  async begin(
    { machineType, blocks }: { machineType: string; blocks: readonly StreamBlock[] },
    wait: Wait = {},
  ): Promise<void> {
    this.#expect('connected')
    this.#phase = 'pages'
    this.#blocks = new Map(blocks.map((block) => [block.name, block]))
    await this.#write([encodeBeginning(machineType, blocks)], wait)
  }

  /** Writes pages of one block; `content` is PAGE_BYTES long and goes out without a copy. */
  async writePages(
    blockName: string,
    pages: readonly { offsetBytes: number; content: Uint8Array }[],
    wait: Wait = {},
  ): Promise<void> {
    this.#expect('pages')
    if (pages.length === 0) return
    for (const { offsetBytes, content } of pages) {
      this.#checkOffset(blockName, offsetBytes)
      if (content.length !== PAGE_BYTES) {
        throw new QemuError('INCOMING_MISUSED', `a page of ${content.length} bytes`, {
          details: { offsetBytes },
        })
      }
    }
    await this.#write(encodePages(blockName, pages), wait)
  }

  /** Makes pages of one block zero. */
  async writeZeroPages(blockName: string, offsetsBytes: readonly number[], wait: Wait = {}): Promise<void> {
    this.#expect('pages')
    if (offsetsBytes.length === 0) return
    for (const offsetBytes of offsetsBytes) this.#checkOffset(blockName, offsetBytes)
    await this.#write(encodeZeroPages(blockName, offsetsBytes), wait)
  }

  /**
   * Writes what `encodePages` and `encodeZeroPages` made of pages that lie within the blocks: in another thread, say.
   * The bytes go out without a copy, and are not looked at.
   */
  async writeEncoded(parts: Uint8Array, wait: Wait = {}): Promise<void> {
    this.#expect('pages')
    if (parts.length > 0) await this.#write([parts], wait)
  }

  /**
   * Ends RAM and hands over the devices.
   *
   * @param deviceState - what `QemuProcess.saveDeviceState` returned at the source
   */
  async finish(deviceState: Uint8Array, wait: Wait = {}): Promise<void> {
    this.#expect('pages')
    if (!isDeviceState(deviceState)) {
      throw new QemuError('INCOMING_MISUSED', 'not a device state', {
        details: { bytes: deviceState.length },
      })
    }
    this.#phase = 'finished'
    await this.#write(encodeEnd(deviceState), wait)
  }

  /** Waits until QEMU has loaded what `finish` ended. The VM is paused then, its disks are open. */
  async loaded(wait: Wait = {}): Promise<void> {
    this.#expect('finished')
    try {
      await this.#qemu.loaded(wait)
    } finally {
      this.#socket.destroy()
    }
  }

  /** Gives up: QEMU can't load anything else afterwards, and is best quit. */
  abort(): void {
    this.#socket.destroy()
  }

  async #write(chunks: readonly Uint8Array[], { timeoutMs = WRITE_TIMEOUT_MS, signal }: Wait): Promise<void> {
    const written = Promise.withResolvers<void>()
    const last = chunks.length - 1
    this.#socket.cork()
    chunks.forEach((chunk, index) => {
      if (index < last) this.#socket.write(chunk)
      else this.#socket.write(chunk, (error) => (error ? written.reject(error) : written.resolve()))
    })
    this.#socket.uncork()
    const timedOut = () => new Error(`it read nothing for ${timeoutMs} ms`)
    try {
      await bounded(written.promise, { timeoutMs, signal, timedOut })
    } catch (cause) {
      this.#socket.destroy()
      signal?.throwIfAborted()
      throw await this.#qemu.explain(cause)
    }
  }

  #expect(phase: Phase): void {
    if (this.#phase !== phase) {
      throw new QemuError('INCOMING_MISUSED', `the stream is ${this.#phase}, not ${phase}`)
    }
  }

  #checkOffset(blockName: string, offsetBytes: number): void {
    const block = this.#blocks.get(blockName)
    if (block === undefined || !isPageOffset(offsetBytes, block)) {
      throw new QemuError('INCOMING_MISUSED', `no page at ${offsetBytes} of RAM block ${blockName}`, {
        details: { blockName, offsetBytes },
      })
    }
  }
}
