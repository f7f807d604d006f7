import { rm } from 'node:fs/promises'
import type { Server, Socket } from 'node:net'
import { PAGE_BYTES, type PageIndex, ZERO_PAGE } from '../../domain/page.ts'
import { listenForQemu, OutgoingReader, QemuError, RAM_BLOCK, type StreamRecord } from '../../qemu/index.ts'
import type { ExtraBlocks } from '../extra-blocks.ts'
import type { TemplateRam } from '../template-ram.ts'
import type { GuestPages, Look } from './guest-pages.ts'

/** How long is waited for QEMU before others have their turn. */
const IDLE_MS = 2

/** Of one page: taken from the template while it is looked at. */
const template = Buffer.alloc(PAGE_BYTES)

/**
 * Pages that QEMU sends on its own `migrate`. QEMU sends no faster than they are
 * looked at: what is on its way is what the socket holds, some 200 KiB.
 */
export class MigratedPages implements GuestPages {
  readonly pages: number
  readonly memory = null
  readonly #template: TemplateRam
  readonly #extra: ExtraBlocks
  readonly #server: Server
  readonly #socketPath: string
  /** Not zero: the pass is over. The agent's own thread says so, as QEMU tells it. */
  readonly #passEnded: Int32Array<SharedArrayBuffer>
  readonly #reader = new OutgoingReader()
  #socket: Socket | null = null
  #deviceState: Buffer | null = null
  /** Not looked at yet: there was no room. */
  #held: StreamRecord | null = null
  #wake: () => void = () => {}

  private constructor(
    server: Server,
    { template, extra }: { template: TemplateRam; extra: ExtraBlocks },
    init: { ramPages: number; socketPath: string; passEnded: SharedArrayBuffer },
  ) {
    this.pages = init.ramPages + extra.pages
    this.#server = server
    this.#template = template
    this.#extra = extra
    this.#socketPath = init.socketPath
    this.#passEnded = new Int32Array(init.passEnded)
    server.once('connection', (socket) => this.#accept(socket))
  }

  /** Listens for QEMU. */
  static async open(
    components: { template: TemplateRam; extra: ExtraBlocks },
    init: { ramPages: number; socketPath: string; passEnded: SharedArrayBuffer },
  ): Promise<MigratedPages> {
    return new MigratedPages(await listenForQemu(init.socketPath), components, init)
  }

  begin(): void {}

  async ready(): Promise<void> {
    const socket = this.#socket
    if (this.#held !== null || (socket !== null && (socket.readableLength > 0 || socket.closed))) return
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#wake = resolve
    const timer = setTimeout(resolve, IDLE_MS)
    await promise
    clearTimeout(timer)
  }

  show(look: Look, room: () => number): boolean {
    const socket = this.#socket
    let lastIndex = -1
    const isNext = (index: PageIndex): boolean => {
      const isAscending = index > lastIndex
      lastIndex = index
      // What comes again in the same batch waits for the next one.
      return isAscending && room() > 0
    }
    for (;;) {
      if (!this.#showFed(look, isNext)) return false
      const chunk = socket?.read() as Buffer | null | undefined
      if (chunk == null) break
      this.#reader.feed(chunk)
    }
    if (socket?.errored)
      throw new QemuError('QEMU_MIGRATION_FAILED', `QEMU's stream broke: ${socket.errored.message}`)
    if (socket?.readableEnded) {
      this.#deviceState ??= this.#reader.end()
      return true
    }
    return Atomics.load(this.#passEnded, 0) !== 0
  }

  get deviceState(): Buffer | null {
    return this.#deviceState
  }

  async close(): Promise<void> {
    this.#server.close()
    this.#socket?.destroy()
    await rm(this.#socketPath, { force: true })
  }

  /** @returns false when the next page is one for the next batch */
  #showFed(look: Look, isNext: (index: PageIndex) => boolean): boolean {
    for (;;) {
      const record = this.#held ?? this.#reader.next()
      this.#held = null
      if (record === null) return true
      if (record.kind !== 'page') continue
      const index = this.#indexOf(record.block.name, record.offsetBytes / PAGE_BYTES)
      // Of other blocks, which are read-only: the destination has them with the template.
      if (index === null) continue
      if (index >= this.pages) throw new QemuError('OUTGOING_MALFORMED', `page ${index} of ${this.pages}`)
      if (!isNext(index)) {
        this.#held = record
        return false
      }
      look(index, record.content ?? ZERO_PAGE, () => {
        this.#template.read({ first: index, end: index + 1 }, template)
        return template
      })
    }
  }

  #indexOf(blockName: string, page: number): PageIndex | null {
    return blockName === RAM_BLOCK ? page : this.#extra.indexOf(blockName, page)
  }

  #accept(socket: Socket): void {
    // One QEMU, once.
    this.#server.close()
    // Who shows pages finds it errored.
    socket.on('error', () => {})
    for (const event of ['readable', 'end', 'close']) socket.on(event, () => this.#wake())
    this.#socket = socket
    this.#wake()
  }
}
