import { execFile } from 'node:child_process'
import { readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'

/**
 * What a benchmark makes on this machine carries its process id: network
 * namespaces `drover-bench-PID-...` and a directory of that name below the
 * temporary one. So the next run knows what a dead one left.
 */
const OURS = /^drover-bench-(\d+)(-|$)/
const PREFIX = `drover-bench-${process.pid}`

const TEMPORARY = tmpdir()
/** What this run has on disk; its agents' temporary files are there as well, see main.ts. */
export const RUN_DIRECTORY = join(TEMPORARY, PREFIX)

/** A process that was killed is gone within this, unless it hangs in the kernel. */
const KILL_TIMEOUT_MS = 5_000
const KILL_POLL_MS = 20

const run = promisify(execFile)

export function namespaceName(host: string): string {
  return `${PREFIX}-${host}`
}

/** Ends every process in a namespace, whoever started it there, and removes it. */
export async function removeNamespace(name: string): Promise<void> {
  const deadlineMs = performance.now() + KILL_TIMEOUT_MS
  for (let pids = await pidsIn(name); pids.length > 0; pids = await pidsIn(name)) {
    if (performance.now() > deadlineMs) throw new Error(`processes in ${name} don't end: ${pids.join(' ')}`)
    for (const pid of pids) kill(pid)
    await sleep(KILL_POLL_MS)
  }
  await run('ip', ['netns', 'del', name]).catch(() => {})
}

/** Removes what runs that were killed have left: their processes, namespaces and files. */
export async function removeLeftovers(): Promise<void> {
  await removeAll((pid) => !isAlive(pid))
}

/** Removes what is left of this run, whatever state it is in. */
export async function removeOwn(): Promise<void> {
  await removeAll((pid) => pid === process.pid)
}

async function removeAll(isMeant: (pid: number) => boolean): Promise<void> {
  const isOne = (name: string) => {
    const [, pid] = OURS.exec(name) ?? []
    return pid !== undefined && isMeant(Number(pid))
  }
  const listed = await ip('-j', 'netns', 'list')
  // None at all is no document.
  const namespaces = (listed === '' ? [] : JSON.parse(listed)) as { name: string }[]
  for (const { name } of namespaces) if (isOne(name)) await removeNamespace(name)
  for (const name of await readdir(TEMPORARY)) {
    if (isOne(name)) await rm(join(TEMPORARY, name), { recursive: true, force: true })
  }
}

async function pidsIn(name: string): Promise<number[]> {
  const listed = await ip('netns', 'pids', name).catch(() => '')
  return listed.split('\n').filter(Boolean).map(Number)
}

async function ip(...args: string[]): Promise<string> {
  return (await run('ip', args)).stdout.trim()
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // It has ended since it was listed.
  }
}
