import { execFile } from 'node:child_process'
import { mkdir, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { saysDiskFull } from '../domain/disk-space.ts'
import { DiskFullError } from '../domain/errors.ts'
import type { VmId } from '../domain/vm.ts'
import { readDiskFormat } from '../qemu/index.ts'
import { VmError } from './errors.ts'

/**
 * `<dataDir>/vms/<id>/` holds what a VM keeps on disk: `overlay.qcow2`, and
 * only VMs with a disk have one. While a directory carries the mark, its VM
 * isn't committed, or no longer is, and the directory may be removed. One
 * without a mark is never removed unasked, even when no record knows it.
 *
 *   run:    directory · mark · overlay · [record written: commit] · mark off
 *   rm:     mark · [record deleted: commit] · directory off
 */
const UNCOMMITTED_MARK = 'uncommitted'
/** Writing the metadata of an empty overlay takes 20 ms; a disk that needs this long is broken. */
const QEMU_IMG_TIMEOUT_MS = 30_000

export class VmDirectories {
  readonly #dir: string

  /** @param dataDir - the agent's data directory */
  constructor(dataDir: string) {
    this.#dir = join(dataDir, 'vms')
  }

  overlayPath(id: VmId): string {
    return join(this.#dir, id, 'overlay.qcow2')
  }

  /**
   * Makes the directory, marked as uncommitted, and in it an empty overlay on the template's disk.
   *
   * @throws VmError OVERLAY_FAILED with what qemu-img said, QemuError LAUNCH_INVALID; DiskFullError
   */
  async create(id: VmId, basePath: string, signal: AbortSignal): Promise<void> {
    await mkdir(join(this.#dir, id), { recursive: true, mode: 0o700 })
    await this.mark(id)
    const baseFormat = await readDiskFormat(basePath, { backing: 'refused' })
    await qemuImg(
      this.#dir,
      ['create', '-q', '-f', 'qcow2', '-F', baseFormat, '-b', basePath, this.overlayPath(id)],
      signal,
    )
  }

  async mark(id: VmId): Promise<void> {
    await writeFile(this.#markPath(id), '').catch(ignoreMissing)
  }

  async commit(id: VmId): Promise<void> {
    await rm(this.#markPath(id), { force: true })
  }

  async remove(id: VmId): Promise<void> {
    await rm(join(this.#dir, id), { recursive: true, force: true })
  }

  /**
   * Finishes what a crash left half done.
   *
   * @param committed - ids of the VMs that have a record
   * @returns directories that neither a record nor a mark explains: left alone
   */
  async recover(committed: ReadonlySet<VmId>): Promise<string[]> {
    const unexplained: string[] = []
    await mkdir(this.#dir, { recursive: true, mode: 0o700 })
    for (const id of await readdir(this.#dir)) {
      if (committed.has(id)) await this.commit(id)
      else if (await exists(this.#markPath(id))) await this.remove(id)
      else unexplained.push(join(this.#dir, id))
    }
    return unexplained
  }

  #markPath(id: VmId): string {
    return join(this.#dir, id, UNCOMMITTED_MARK)
  }
}

async function qemuImg(dir: string, args: string[], signal: AbortSignal): Promise<void> {
  try {
    await promisify(execFile)('qemu-img', args, { signal, timeout: QEMU_IMG_TIMEOUT_MS })
  } catch (cause) {
    signal.throwIfAborted()
    const { stderr = '', message } = cause as Error & { stderr?: string }
    if (saysDiskFull(stderr)) throw new DiskFullError(dir, { cause })
    throw new VmError('OVERLAY_FAILED', `qemu-img ${args[0]}: ${stderr.trim() || message}`, { cause })
  }
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  )
}

function ignoreMissing(error: NodeJS.ErrnoException): void {
  if (error.code !== 'ENOENT') throw error
}
