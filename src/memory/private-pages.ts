import { readFile } from 'node:fs/promises'
import { PAGE_BYTES } from '../domain/page.ts'
import { isMemoryClosed } from './errors.ts'
import { type GuestLocation, GuestMemory } from './guest-memory.ts'

/**
 * How many pages a guest has of its own. Where its memory may not be looked
 * into, the most that it can be: all memory of its QEMU that is no file's, which
 * everybody may see; QEMU's own is in it, some 10,000 pages.
 *
 * @throws MemoryError MEMORY_MAPPING_NOT_FOUND, MEMORY_PROCESS_GONE
 */
export async function mostPrivatePages(guest: GuestLocation): Promise<number> {
  try {
    await using memory = await GuestMemory.open(guest)
    return (await memory.counts()).private
  } catch (error) {
    if (!isMemoryClosed(error)) throw error
    return Math.min(guest.memoryBytes / PAGE_BYTES, await anonymousPages(guest.pid))
  }
}

/** RssAnon and VmSwap of /proc/PID/status (proc(5)); Infinity where nothing may be seen of the process. */
async function anonymousPages(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '')
  const kib = (field: string): number => Number(new RegExp(`^${field}:\\s+(\\d+) kB$`, 'm').exec(status)?.[1])
  const bytes = (kib('RssAnon') + kib('VmSwap')) * 1024
  return Number.isNaN(bytes) ? Infinity : Math.ceil(bytes / PAGE_BYTES)
}
