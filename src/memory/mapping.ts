import { readFile, realpath, stat } from 'node:fs/promises'
import { MemoryError, procError } from './errors.ts'

/** Where a QEMU process has its guest's main RAM mapped. */
export interface GuestMapping {
  /** Host virtual address of the guest's first page; below 2^47, so a plain number holds it. */
  addressBytes: number
  lengthBytes: number
}

// start-end perms offset major:minor inode path (proc(5), /proc/pid/maps)
const MAPS_LINE = /^([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) \S+ (\d+)\s+(.*)$/

/**
 * Finds the mapping of a RAM file. QEMU may have split it in several areas
 * (madvise does), but they lie next to each other in file order.
 *
 * @param ramPath - the memory backend's file
 * @throws MemoryError MEMORY_MAPPING_NOT_FOUND, MEMORY_NOT_PERMITTED, MEMORY_PROCESS_GONE
 */
export async function findGuestMapping(
  pid: number,
  ramPath: string,
  lengthBytes: number,
): Promise<GuestMapping> {
  const [maps, path, { ino }] = await Promise.all([
    readFile(`/proc/${pid}/maps`, 'utf8').catch((cause) => Promise.reject(procError(pid, 'maps', cause))),
    realpath(ramPath),
    stat(ramPath),
  ])
  // One that is just going has no memory any more.
  if (maps === '')
    throw new MemoryError('MEMORY_PROCESS_GONE', `QEMU (pid ${pid}) is gone`, { details: { pid } })
  let addressBytes = 0
  let mappedBytes = 0
  for (const line of maps.split('\n')) {
    const match = MAPS_LINE.exec(line)
    if (match === null || Number(match[4]) !== ino || match[5] !== path) continue
    const start = Number.parseInt(match[1]!, 16)
    const offset = Number.parseInt(match[3]!, 16)
    if (offset === 0 && mappedBytes === 0) addressBytes = start
    if (offset !== mappedBytes || start !== addressBytes + mappedBytes) continue
    mappedBytes += Number.parseInt(match[2]!, 16) - start
  }
  if (mappedBytes < lengthBytes) {
    throw new MemoryError(
      'MEMORY_MAPPING_NOT_FOUND',
      `QEMU (pid ${pid}) maps ${mappedBytes} of ${lengthBytes} bytes of ${ramPath}: it doesn't run from that template`,
      { details: { pid, ramPath, mappedBytes, lengthBytes } },
    )
  }
  return { addressBytes, lengthBytes }
}
