import { randomFillSync } from 'node:crypto'
import { open, rename, rm, stat } from 'node:fs/promises'
import { availableDiskBytes } from '../domain/disk-space.ts'

/**
 * To open a database LevelDB writes what its logs hold to new tables, 4 MiB for
 * each of two, and a manifest, before it deletes what that replaces; the rest
 * is some thousand records.
 */
export const RESERVE_BYTES = 16 * 1024 ** 2
/** Made again only where so much stays free beside it: it must not be what fills the disk. */
const REFILL_MARGIN_BYTES = 32 * 1024 ** 2
const REFILL_INTERVAL_MS = 10_000
const BLOCK_BYTES = 1024 ** 2

/**
 * A file that holds disk space while there is plenty, and gives it up on a full
 * disk, so that the records which say who owns a VM can still be written. On a
 * shared file system others may take that space first.
 */
export class DiskReserve {
  readonly #path: string
  readonly #dir: string
  #timer: NodeJS.Timeout | null = null
  #filling: Promise<void> = Promise.resolve()
  #isStopped = false

  constructor(init: { dir: string; path: string }) {
    this.#dir = init.dir
    this.#path = init.path
  }

  /** Makes the file in the background, now or as soon as there is room. */
  keep(): void {
    if (this.#isStopped || this.#timer !== null) return
    const fill = (): void => {
      this.#filling = this.#fill().catch(() => {
        // Full meanwhile: nothing of it is left, and it is tried again.
      })
    }
    this.#timer = setInterval(fill, REFILL_INTERVAL_MS).unref()
    fill()
  }

  /** Gives the space up, with what an agent that died while it made the file has left of it. */
  async release(): Promise<void> {
    await this.#filling
    await Promise.all([rm(this.#path, { force: true }), rm(this.#making, { force: true })])
    this.keep()
  }

  /** Leaves the file for the next agent. */
  async stop(): Promise<void> {
    this.#isStopped = true
    this.#rest()
    await this.#filling
  }

  /** Its name until it is whole. */
  get #making(): string {
    return `${this.#path}.new`
  }

  #rest(): void {
    if (this.#timer !== null) clearInterval(this.#timer)
    this.#timer = null
  }

  async #fill(): Promise<void> {
    const present = await stat(this.#path).catch(() => null)
    if (present?.size === RESERVE_BYTES) return this.#rest()
    const leftBytes = availableDiskBytes(this.#dir) ?? 0
    if (leftBytes < RESERVE_BYTES + REFILL_MARGIN_BYTES) return
    const making = this.#making
    try {
      await using file = await open(making, 'w', 0o600)
      // A file system that compresses would keep no space for zeros.
      const block = randomFillSync(Buffer.allocUnsafe(BLOCK_BYTES))
      for (let at = 0; at < RESERVE_BYTES; at += BLOCK_BYTES) {
        block.writeUInt32LE(at)
        await file.write(block, 0, BLOCK_BYTES, at)
      }
      await file.sync()
    } catch (error) {
      await rm(making, { force: true })
      throw error
    }
    await rename(making, this.#path)
    this.#rest()
  }
}
