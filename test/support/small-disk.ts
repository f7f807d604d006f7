/** A disk that is soon full: a file system in memory, of its own. */
import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, open, rm, statfs } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)

const BLOCK_BYTES = 64 * 1024

export class SmallDisk implements AsyncDisposable {
  readonly path: string

  private constructor(path: string) {
    this.path = path
  }

  /** @param path - where to mount it; a new directory unless told. @returns why there is none, without root */
  static async mount(sizeMiB: number, path?: string): Promise<SmallDisk | string> {
    if (process.getuid?.() !== 0) return 'only root can mount a file system'
    const at = path ?? (await mkdtemp(join(tmpdir(), 'drover-small-')))
    await mkdir(at, { recursive: true })
    await run('mount', ['-t', 'tmpfs', '-o', `size=${sizeMiB}m,huge=never`, 'tmpfs', at])
    return new SmallDisk(at)
  }

  /** Others write until so much is left; 0: to the last byte. */
  async fill({ leavingBytes = 0 } = {}): Promise<void> {
    await using others = await open(join(this.path, 'others'), 'a')
    const block = Buffer.alloc(BLOCK_BYTES)
    for (;;) {
      const bytes = Math.min(BLOCK_BYTES, (await this.availableBytes()) - leavingBytes)
      if (bytes <= 0) return
      await others.appendFile(block.subarray(0, bytes))
    }
  }

  /** What others wrote goes. */
  async free(): Promise<void> {
    await rm(join(this.path, 'others'), { force: true })
  }

  async availableBytes(): Promise<number> {
    const { bavail, bsize } = await statfs(this.path)
    return bavail * bsize
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await run('umount', [this.path])
    await rm(this.path, { recursive: true, force: true })
  }
}
