import { readFileSync } from 'node:fs'

/**
 * Memory of this machine and of its processes, from counters that the kernel
 * keeps: microseconds each, so they are read when they are needed and never cached.
 */

/** What the machine can give without swapping (proc(5), MemAvailable). */
export function hostAvailableBytes(): number {
  return kibibytes(readFileSync('/proc/meminfo', 'utf8'), 'MemAvailable') * 1024
}

/**
 * What a process has for itself: anonymous memory, in RAM and in swap
 * (proc(5), RssAnon and VmSwap). For QEMU these are the guest's private pages,
 * which left the template's file when they were written, and QEMU's own heap.
 * 0 for a process that is gone.
 */
export function ownMemoryBytes(pid: number): number {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8')
    return (kibibytes(status, 'RssAnon') + kibibytes(status, 'VmSwap')) * 1024
  } catch {
    return 0
  }
}

/** A line such as `RssAnon:     43212 kB`; 0 when there is none, as in a zombie's status. */
function kibibytes(text: string, key: string): number {
  return Number(new RegExp(`^${key}:\\s+(\\d+) kB$`, 'm').exec(text)?.[1] ?? 0)
}
