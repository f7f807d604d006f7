import { constants as openFlags } from 'node:fs'
import { chmod, constants, copyFile, type FileHandle, open, readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { availableDiskBytes } from '../domain/disk-space.ts'
import { DiskFullError } from '../domain/errors.ts'

/** Permissions of files that are still written to. */
export const DRAFT_FILE_MODE = 0o600
/** Permissions of sealed files: nobody writes to them again. */
const SEALED_FILE_MODE = 0o444
/** stat(2): `st_blocks` counts 512 bytes, whatever the file system's blocks are. */
export const STAT_BLOCK_BYTES = 512

/**
 * Stays free beside whatever is begun: the tables that LevelDB writes anew
 * (some 10 MiB with a few templates in the page index), overlays that grow
 * meanwhile, and records, without which no VM could be moved away any more.
 */
export const DISK_MARGIN_BYTES = 32 * 1024 ** 2

/**
 * Doesn't wait.
 *
 * @param promisedBytes - to others, of what is free
 * @throws DiskFullError when the file system of `dir` has less than that and the margin left
 */
export function requireFreeBytes(dir: string, neededBytes: number, promisedBytes: number): void {
  const neededInAll = neededBytes + promisedBytes + DISK_MARGIN_BYTES
  if (neededInAll > (availableDiskBytes(dir) ?? 0)) {
    throw new DiskFullError(dir, { neededBytes: neededInAll })
  }
}

/** What was written to a file, or entered into a directory, survives a power cut. */
export async function syncPath(path: string): Promise<void> {
  await using handle = await open(path)
  await handle.sync()
}

/** Makes a file read-only and durable. */
export async function sealFile(path: string): Promise<void> {
  await using file = await open(path)
  await file.chmod(SEALED_FILE_MODE)
  await file.sync()
}

/**
 * Copies a file by sharing its blocks: nothing is read, and each side has its
 * own from where it is changed on.
 *
 * @returns false when the file system has no reflinks, or `from` is gone; no file is left then
 */
export async function reflink(from: string, to: string): Promise<boolean> {
  try {
    await copyFile(from, to, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE_FORCE)
  } catch (error) {
    if (NO_REFLINK.has((error as NodeJS.ErrnoException).code)) return false
    throw error
  }
  await chmod(to, DRAFT_FILE_MODE)
  return true
}

/** What FICLONE fails with where there are none (ioctl_ficlone(2)); libuv gives ENOTSUP for what it knows to be none. */
const NO_REFLINK: ReadonlySet<string | undefined> = new Set([
  'ENOTSUP',
  'EOPNOTSUPP',
  'ENOTTY',
  'EINVAL',
  'ENOSYS',
  'EXDEV',
  // Removed meanwhile, or lost.
  'ENOENT',
])

/** Opens a file for reading and writing, made if it is missing, cut or filled with a hole to its size. */
export async function openSized(path: string, sizeBytes: number): Promise<FileHandle> {
  const file = await open(path, openFlags.O_RDWR | openFlags.O_CREAT, DRAFT_FILE_MODE)
  try {
    await file.truncate(sizeBytes)
    return file
  } catch (error) {
    await file.close()
    throw error
  }
}

/** What the files of a directory take on disk. */
export async function directoryBytes(dir: string): Promise<number> {
  const found = await Promise.all((await readdir(dir)).map((name) => stat(join(dir, name))))
  return found.reduce((sum, { blocks }) => sum + blocks * STAT_BLOCK_BYTES, 0)
}
