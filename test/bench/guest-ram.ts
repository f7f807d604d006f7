import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { promisify } from 'node:util'

/** What of a guest's RAM file one process holds in memory (proc(5), /proc/pid/smaps). */
export interface GuestRamUse {
  /** In memory at all, shared or not. */
  residentBytes: number
  /** Only this process has it: what the VM costs beside its template. */
  privateBytes: number
}

/** Sums up the areas of a process that map `ramPath`. */
export async function guestRamUse(pid: number, ramPath: string): Promise<GuestRamUse> {
  const use: GuestRamUse = { residentBytes: 0, privateBytes: 0 }
  let isGuestRam = false
  for (const line of (await readFile(`/proc/${pid}/smaps`, 'utf8')).split('\n')) {
    const field = /^(\w+):\s+(\d+) kB$/.exec(line)
    if (field === null) {
      if (/^[0-9a-f]+-[0-9a-f]+ /.test(line)) isGuestRam = line.endsWith(` ${ramPath}`)
      continue
    }
    if (!isGuestRam) continue
    const bytes = Number(field[2]) * 1024
    if (field[1] === 'Rss') use.residentBytes += bytes
    // Anonymous: written since the mapping was made. Private_Clean may be the template's page, mapped once.
    if (field[1] === 'Anonymous') use.privateBytes += bytes
  }
  return use
}

/** What of a file is in the page cache: once, however many processes map it (fincore(1)). */
export async function residentBytes(path: string): Promise<number> {
  const options = ['--bytes', '--noheadings', '--output', 'RES']
  const { stdout } = await promisify(execFile)('fincore', [...options, path])
  return Number(stdout)
}
