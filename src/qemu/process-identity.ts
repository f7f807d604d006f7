import { readFile } from 'node:fs/promises'
import type { ProcessIdentity } from '../domain/vm.ts'

/**
 * Who has this pid now, or null when nobody has: a zombie runs nothing.
 *
 * Fields of /proc/PID/stat after the name, which is in parentheses and may
 * hold spaces and parentheses itself (proc(5)): state is field 3, starttime 22.
 */
export async function readProcessIdentity(pid: number): Promise<ProcessIdentity | null> {
  let stat: string
  try {
    stat = await readFile(`/proc/${pid}/stat`, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ESRCH') return null
    throw error
  }
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  if (fields[0] === 'Z' || fields[0] === 'X') return null
  return { pid, startTimeTicks: Number(fields[22 - 3]) }
}

/** Whether that very process still runs: pids are reused, start times aren't. */
export async function isRunning(identity: ProcessIdentity): Promise<boolean> {
  const found = await readProcessIdentity(identity.pid)
  return found?.startTimeTicks === identity.startTimeTicks
}

/** The command line of a process, as it was given; empty when the process is gone. */
export async function readCommandLine(pid: number): Promise<string[]> {
  try {
    return (await readFile(`/proc/${pid}/cmdline`, 'utf8')).split('\0').slice(0, -1)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ESRCH') return []
    throw error
  }
}

/** Sends a signal to that very process; false when it is gone. */
export async function signalProcess(identity: ProcessIdentity, signal: NodeJS.Signals): Promise<boolean> {
  if (!(await isRunning(identity))) return false
  try {
    process.kill(identity.pid, signal)
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false
    throw error
  }
}
