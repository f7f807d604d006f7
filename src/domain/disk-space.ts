import { statfsSync } from 'node:fs'

/** Bytes that the file system of `path` has left for others than root; null where it can't be asked. Doesn't wait. */
export function availableDiskBytes(path: string): number | null {
  try {
    const { bavail, bsize } = statfsSync(path)
    return bavail * bsize
  } catch {
    return null
  }
}

/** Whether a program or library that tells of errno in words alone (strerror(3)) says that the disk is full. */
export function saysDiskFull(text: string): boolean {
  return /no space left|disk quota exceeded/i.test(text)
}
