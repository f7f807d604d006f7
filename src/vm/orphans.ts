import { readdir, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { readProcessIdentity } from '../qemu/index.ts'
import { endProcess } from './end-process.ts'

const UUID = '[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}'

/**
 * Ends the QEMUs whose run directory lies under `runDir` and that no record
 * knows: an agent died between starting them and committing their VM, or
 * between giving a VM up and ending its QEMU.
 *
 * @param runDir - directory of all run directories
 * @param known - pids of the QEMUs that belong to records
 */
export async function endOrphans(runDir: string, known: ReadonlySet<number>): Promise<void> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number)
  await Promise.all(
    pids.map(async (pid) => {
      if (known.has(pid)) return
      const vmRunDir = await findRunDir(pid, runDir)
      const identity = vmRunDir === null ? null : await readProcessIdentity(pid)
      if (vmRunDir !== null && identity !== null) await endProcess(identity, vmRunDir)
    }),
  )
}

/**
 * Removes run directories that no record names. What isn't named by a UUID isn't ours.
 *
 * @param named - names of the directories that belong to records
 */
export async function removeStaleRunDirs(runDir: string, named: ReadonlySet<string>): Promise<void> {
  const names = await readdir(runDir)
  const stale = names.filter((name) => new RegExp(`^${UUID}$`).test(name) && !named.has(name))
  await Promise.all(stale.map((name) => rm(join(runDir, name), { recursive: true, force: true })))
}

/** The VM's run directory that a command line names, as the path of its control socket (a comma is doubled there). */
async function findRunDir(pid: number, runDir: string): Promise<string | null> {
  const commandLine = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')
  const prefix = `path=${runDir.replaceAll(',', ',,')}/`
  const start = commandLine.indexOf(prefix)
  if (start < 0) return null
  const name = new RegExp(`^${UUID}(?=/qmp\\.sock,)`).exec(commandLine.slice(start + prefix.length))?.[0]
  return name === undefined ? null : join(runDir, name)
}
