/** A file system with reflinks, which the machine's own may not have. */
import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, open, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)

/** The least that mkfs.xfs makes one of; sparse. */
const IMAGE_BYTES = 512 * 1024 ** 2

export interface ReflinkMount extends AsyncDisposable {
  path: string
}

/** An XFS of its own, mounted. @returns why there is none, where that can't be: without root, loop devices or XFS */
export async function mountReflinks(): Promise<ReflinkMount | string> {
  const dir = await mkdtemp(join(tmpdir(), 'drover-xfs-'))
  const [image, path] = [join(dir, 'image'), join(dir, 'mount')]
  try {
    if (process.getuid?.() !== 0) throw new Error('only root can mount a file system')
    await mkdir(path)
    {
      await using file = await open(image, 'wx')
      await file.truncate(IMAGE_BYTES)
    }
    await run('mkfs.xfs', ['-q', '-m', 'reflink=1', image], {
      env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` },
    })
    await run('mount', ['-o', 'loop', image, path])
  } catch (error) {
    await rm(dir, { recursive: true, force: true })
    return `no file system with reflinks: ${(error as Error).message.trim()}`
  }
  return {
    path,
    [Symbol.asyncDispose]: async () => {
      await run('umount', [path])
      await rm(dir, { recursive: true, force: true })
    },
  }
}
