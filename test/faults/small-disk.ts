import { execFile } from 'node:child_process'
import { mkdir, rm, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'

const run = promisify(execFile)

/** Not of the product's names: it never looks at it. */
const FILLER = 'filler'
/** QEMUs that were just killed may hold files for a moment. */
const UNMOUNT_TRIES = 50
const UNMOUNT_RETRY_MS = 100

/** A file system of its own, in memory, that can be filled to the last byte. */
export class SmallDisk {
  readonly #path: string
  readonly #bytes: number

  constructor(path: string, bytes: number) {
    this.#path = path
    this.#bytes = bytes
  }

  async mount(): Promise<void> {
    await mkdir(this.#path, { recursive: true })
    // Huge pages would make QEMU's private mappings private 512 pages at a time.
    const options = `size=${this.#bytes},huge=never,mode=700`
    await run('mount', ['-t', 'tmpfs', '-o', options, 'drover-faults', this.#path])
  }

  async fill(): Promise<void> {
    const filler = join(this.#path, FILLER)
    for (let at = 0; ; ) {
      const { bavail, bsize } = await statfs(this.#path)
      if (bavail === 0) return
      // Somebody may take some of it first.
      const length = bavail * bsize
      await run('fallocate', ['--offset', String(at), '--length', String(length), filler]).then(
        () => {
          at += length
        },
        () => {},
      )
    }
  }

  async free(): Promise<void> {
    await rm(join(this.#path, FILLER), { force: true })
  }

  async unmount(): Promise<void> {
    for (let tries = 1; ; tries++) {
      try {
        await run('umount', [this.#path])
        return
      } catch (error) {
        if (tries === UNMOUNT_TRIES) throw error
        await sleep(UNMOUNT_RETRY_MS)
      }
    }
  }
}
