import { readdirSync, rmSync, statSync } from 'node:fs'
import { mkdir, readdir, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { availableDiskBytes } from '../../domain/disk-space.ts'
import type { VmId } from '../../domain/vm.ts'
import { DRAFT_SUFFIX, keptFileBytes, readKeptHead } from './kept-file.ts'

/** Of the disk's free space, what kept pages leave to others: they are a convenience. */
const MIN_FREE_SHARE = 4

/**
 * Which pages of departed VMs this node keeps, and what the VMs here held when
 * they arrived, a file for each VM. Within a byte limit, the oldest out first.
 * Pages of VMs that nobody will ever see again go with the limit, and their
 * tables when another VM arrives.
 */
export class KeptPages {
  readonly #pagesDir: string
  readonly #tablesDir: string
  readonly #limitBytes: number
  /** Promised to pages that are being written: several VMs may leave at a time. */
  #promisedBytes = 0
  #isHere: (id: VmId) => boolean = () => true

  /** @param dataDir - the agent's; @param limitBytes - for the pages; 0 keeps nothing */
  constructor({ dataDir, limitBytes }: { dataDir: string; limitBytes: number }) {
    this.#pagesDir = join(dataDir, 'kept')
    this.#tablesDir = join(dataDir, 'arrived')
    this.#limitBytes = limitBytes
  }

  /** Removes what a crash has left half-written, and tables of VMs that are not here any more. */
  async start(isHere: (id: VmId) => boolean): Promise<void> {
    this.#isHere = isHere
    for (const dir of [this.#pagesDir, this.#tablesDir]) {
      await mkdir(dir, { recursive: true, mode: 0o700 })
      for (const name of await readdir(dir)) {
        if (name.endsWith(DRAFT_SUFFIX)) await rm(join(dir, name), { force: true })
      }
    }
    await this.#dropTables()
    await this.#evict()
  }

  /** Where the table of a VM's arrival is. */
  tablePath(id: VmId): string {
    return join(this.#tablesDir, id)
  }

  /** Where the pages of a VM are. */
  pagesPath(id: VmId): string {
    return join(this.#pagesDir, id)
  }

  /** Whether the pages behind a digest are here: those that the VM left here last. */
  holds(id: VmId, digest: Uint8Array): boolean {
    const head = readKeptHead(this.pagesPath(id))
    return head !== null && Buffer.from(head.digest).equals(digest)
  }

  /**
   * Makes room for so many pages.
   *
   * @returns to be disposed of once they are written, or not written; null where they can't be kept
   */
  async makeRoom(id: VmId, pages: number): Promise<Disposable | null> {
    const bytes = keptFileBytes(pages)
    await rm(this.pagesPath(id), { force: true })
    const promised = this.#promisedBytes + bytes
    const available = availableDiskBytes(this.#pagesDir) ?? 0
    if (pages === 0 || promised > this.#limitBytes || promised > available / MIN_FREE_SHARE) return null
    this.#promisedBytes = promised
    using room = new DisposableStack()
    room.defer(() => {
      this.#promisedBytes -= bytes
      // A page thread that has ended leaves what it was writing.
      rmSync(`${this.pagesPath(id)}${DRAFT_SUFFIX}`, { force: true })
    })
    await this.#evict()
    return room.move()
  }

  /** The VM is here again: what it left is what it has. */
  async arrived(id: VmId): Promise<void> {
    await rm(this.pagesPath(id), { force: true })
    await this.#dropTables()
  }

  /** The VM is gone from here. */
  async departed(id: VmId): Promise<void> {
    await rm(this.tablePath(id), { force: true })
  }

  /** What is kept on disk, in bytes. */
  bytes(): { keptBytes: number; limitBytes: number } {
    const keptBytes = this.#sizes().reduce((sum, size) => sum + size, 0)
    return { keptBytes, limitBytes: this.#limitBytes }
  }

  /**
   * Others need the disk: nothing of it is kept any more. Doesn't wait.
   *
   * @returns whether there was anything
   */
  giveWay(): boolean {
    const names = readdirSync(this.#pagesDir).filter((name) => !name.endsWith(DRAFT_SUFFIX))
    for (const name of names) rmSync(join(this.#pagesDir, name), { force: true })
    return names.length > 0
  }

  /** Of VMs that were removed, or are elsewhere. */
  async #dropTables(): Promise<void> {
    for (const name of await readdir(this.#tablesDir)) {
      // One that is being written is of a VM that has just come.
      if (name.endsWith(DRAFT_SUFFIX) || this.#isHere(name)) continue
      await rm(join(this.#tablesDir, name), { force: true })
    }
  }

  #sizes(): number[] {
    const names = readdirSync(this.#pagesDir)
    return names.map((name) => statSync(join(this.#pagesDir, name), { throwIfNoEntry: false })?.size ?? 0)
  }

  async #evict(): Promise<void> {
    // What is being written counts as it was promised.
    const names = (await readdir(this.#pagesDir)).filter((name) => !name.endsWith(DRAFT_SUFFIX))
    const found = await Promise.all(
      names.map(async (name) => {
        const path = join(this.#pagesDir, name)
        const known = await stat(path).catch(() => null)
        return known === null ? null : { path, size: known.size, mtimeMs: known.mtimeMs }
      }),
    )
    const files = found.filter((file) => file !== null)
    let total = this.#promisedBytes + files.reduce((sum, { size }) => sum + size, 0)
    for (const { path, size } of files.sort((a, b) => a.mtimeMs - b.mtimeMs)) {
      if (total <= this.#limitBytes) return
      await rm(path, { force: true })
      total -= size
    }
  }
}
