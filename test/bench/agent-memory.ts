import { readFile, writeFile } from 'node:fs/promises'

/** Forgets the most that a process ever had resident (proc(5), /proc/pid/clear_refs, value 5). */
export async function forgetPeak(pid: number): Promise<void> {
  await writeFile(`/proc/${pid}/clear_refs`, '5')
}

/** The most that a process had resident since. */
export async function peakBytes(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8')
  return Number(/^VmHWM:\s+(\d+) kB$/m.exec(status)![1]) * 1024
}
