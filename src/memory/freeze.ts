import { readdir, readFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'

/** A stop signal reaches every thread within microseconds; a thread in an uninterruptible wait takes longer. */
const FREEZE_TIMEOUT_MS = 200

/**
 * Runs `action` while no thread of a process runs. SIGSTOP rather than QMP
 * `stop`: the guest's clocks go on as if the host were busy, no disk is
 * flushed, and it takes microseconds. An agent that dies in between leaves the
 * process stopped; whoever adopts it sends SIGCONT first.
 */
export async function whileFrozen<T>(pid: number, action: () => Promise<T>): Promise<T> {
  process.kill(pid, 'SIGSTOP')
  try {
    const deadlineMs = performance.now() + FREEZE_TIMEOUT_MS
    while (!(await isStopped(pid))) {
      if (performance.now() > deadlineMs)
        throw new Error(`process ${pid} did not stop in ${FREEZE_TIMEOUT_MS} ms`)
      await sleep(0)
    }
    return await action()
  } finally {
    process.kill(pid, 'SIGCONT')
  }
}

/** Whether every thread is in state T: field 3 of /proc/PID/task/TID/stat, after the name in parentheses (proc(5)). */
async function isStopped(pid: number): Promise<boolean> {
  const threads = await readdir(`/proc/${pid}/task`)
  const stats = await Promise.all(
    // A thread that has ended meanwhile writes no more.
    threads.map((tid) => readFile(`/proc/${pid}/task/${tid}/stat`, 'utf8').catch(() => null)),
  )
  return stats.every((stat) => stat === null || stat.slice(stat.lastIndexOf(')') + 2).startsWith('T'))
}
