import { execFile } from 'node:child_process'
import { mkdir, rm, statfs, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'

const ENVIRONMENT = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` }
const run = (command: string, args: readonly string[]) =>
  promisify(execFile)(command, args, { env: ENVIRONMENT })

/**
 * A database appends some hundred bytes to a log: with the usual 4 KiB blocks
 * most of these still find room in the last block of a full disk.
 */
const BLOCK_BYTES = 1024
/** Not of the product's names: it never looks at it. */
const FILLER = 'filler'

/** A file system of its own, in memory, that can be filled to the last block. */
export class SmallDisk {
  readonly #path: string
  readonly #bytes: number
  readonly #mounts: string[] = []

  constructor(path: string, bytes: number) {
    this.#path = path
    this.#bytes = bytes
  }

  async mount(): Promise<void> {
    const memory = `${this.#path}-image`
    await mkdir(memory, { recursive: true })
    await mkdir(this.#path, { recursive: true })
    await run('mount', ['-t', 'tmpfs', '-o', `size=${this.#bytes}`, 'drover-faults', memory])
    this.#mounts.unshift(memory)
    const image = join(memory, 'ext4')
    await writeFile(image, '')
    await truncate(image, this.#bytes)
    const features = ['-O', '^has_journal', '-b', String(BLOCK_BYTES), '-m', '0']
    await run('mkfs.ext4', ['-q', ...features, image])
    await run('mount', ['-o', 'loop,discard', image, this.#path])
    this.#mounts.unshift(this.#path)
    await rm(join(this.#path, 'lost+found'), { recursive: true })
  }

  async fill(): Promise<void> {
    const filler = join(this.#path, FILLER)
    for (let at = 0; ; ) {
      const { bavail, bsize } = await statfs(this.#path)
      if (bavail === 0) return
      // Somebody may take some of it first, and the filler's own extents are somewhere too: then less does.
      let length = bavail * bsize
      while (length >= bsize && !(await allocate(filler, at, length)))
        length = Math.floor(length / bsize / 2) * bsize
      if (length < bsize) return
      at += length
    }
  }

  async free(): Promise<void> {
    await rm(join(this.#path, FILLER), { force: true })
  }

  async unmount(): Promise<void> {
    // Lazily: whatever else on this machine has copied its mounts meanwhile may hold a copy of these.
    for (const path of this.#mounts.splice(0)) await run('umount', ['--lazy', path])
  }
}

async function allocate(path: string, at: number, length: number): Promise<boolean> {
  return await run('fallocate', ['--offset', String(at), '--length', String(length), path]).then(
    () => true,
    () => false,
  )
}
