import { readSync } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import type { PageRun } from '../domain/bitmap.ts'
import { PAGE_BYTES } from '../domain/page.ts'
import type { PageCounts } from '../domain/vm.ts'
import { procError } from './errors.ts'
import { Freeze } from './freeze.ts'
import { findGuestMapping, type GuestMapping } from './mapping.ts'
import { type PagemapScan, pagemapBuffer, scanPagemap } from './pagemap.ts'

/** Where the main RAM of a running guest is. */
export interface GuestLocation {
  pid: number
  /** The template's RAM file, which the process maps copy-on-write. */
  ramPath: string
  memoryBytes: number
}

/**
 * The main RAM of a running guest, seen from outside through `/proc/PID`.
 * QEMU takes no part in it and notices nothing.
 */
export class GuestMemory implements AsyncDisposable {
  readonly pid: number
  /** Pages of guest RAM. */
  readonly pages: number
  /** Whoever freezes this guest does it here. */
  readonly freeze: Freeze
  readonly #mapping: GuestMapping
  readonly #mem: FileHandle
  readonly #pagemap: FileHandle
  /** Made by the first scan: who only reads pages needs none. 1 MiB for 512 MiB of guest. */
  #entries: Uint32Array | null = null

  private constructor(pid: number, mapping: GuestMapping, mem: FileHandle, pagemap: FileHandle) {
    this.pid = pid
    this.freeze = new Freeze(pid)
    this.pages = mapping.lengthBytes / PAGE_BYTES
    this.#mapping = mapping
    this.#mem = mem
    this.#pagemap = pagemap
  }

  /** @throws MemoryError MEMORY_NOT_PERMITTED, MEMORY_MAPPING_NOT_FOUND, MEMORY_PROCESS_GONE */
  static async open(vm: GuestLocation): Promise<GuestMemory> {
    const mapping = await findGuestMapping(vm.pid, vm.ramPath, vm.memoryBytes)
    const mem = await openProc(vm.pid, 'mem')
    try {
      return new GuestMemory(vm.pid, mapping, mem, await openProc(vm.pid, 'pagemap'))
    } catch (error) {
      await mem.close()
      throw error
    }
  }

  /**
   * Which pages are private and, where the kernel tells, which were written lately. 512 MiB: about 3 ms.
   *
   * @throws MemoryError MEMORY_PROCESS_GONE
   */
  async scan(): Promise<PagemapScan> {
    try {
      this.#entries ??= pagemapBuffer(this.pages)
      return await scanPagemap(this.#pagemap, this.#mapping, this.#entries)
    } catch (cause) {
      throw procError(this.pid, 'pagemap', cause)
    }
  }

  async counts(): Promise<PageCounts> {
    return (await this.scan()).counts
  }

  /**
   * Copies a run of pages to the start of `into`. Synchronous on purpose: 1 MiB
   * takes 0.2 ms, less than the way through the thread pool costs.
   *
   * @throws MemoryError MEMORY_PROCESS_GONE
   */
  read(run: PageRun, into: Uint8Array): void {
    const length = (run.end - run.first) * PAGE_BYTES
    const position = this.#mapping.addressBytes + run.first * PAGE_BYTES
    try {
      for (let done = 0; done < length; ) {
        const bytesRead = readSync(this.#mem.fd, into, done, length - done, position + done)
        if (bytesRead === 0) throw Object.assign(new Error('address space is gone'), { code: 'ESRCH' })
        done += bytesRead
      }
    } catch (cause) {
      throw procError(this.pid, 'mem', cause)
    }
  }

  async close(): Promise<void> {
    await Promise.all([this.#mem.close(), this.#pagemap.close()])
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

async function openProc(pid: number, file: 'mem' | 'pagemap'): Promise<FileHandle> {
  try {
    return await open(`/proc/${pid}/${file}`, 'r')
  } catch (cause) {
    throw procError(pid, file, cause)
  }
}
