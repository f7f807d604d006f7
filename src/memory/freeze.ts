import { readdir, readFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { MemoryError, procError } from './errors.ts'

/** A stop signal reaches every thread within microseconds; a thread in an uninterruptible wait takes longer. */
const FREEZE_TIMEOUT_MS = 200

/**
 * Holds a process frozen while at least one holder wants it: a scan and the
 * throttle may overlap. One for each process: another one's SIGCONT would end
 * the hold. SIGSTOP rather than QMP `stop`: the guest's clocks go on as if the
 * host were busy, no disk is flushed, and it takes microseconds.
 */
export class Freeze {
  readonly pid: number
  #holders = 0

  constructor(pid: number) {
    this.pid = pid
  }

  /**
   * Freezes the process until the result is disposed.
   *
   * @throws MemoryError MEMORY_PROCESS_GONE
   */
  hold(): Disposable {
    if (this.#holders === 0) halt(this.pid)
    this.#holders++
    const held = new DisposableStack()
    held.defer(() => {
      this.#holders--
      if (this.#holders === 0) thaw(this.pid)
    })
    return held
  }
}

function halt(pid: number): void {
  try {
    process.kill(pid, 'SIGSTOP')
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'ESRCH') throw cause
    throw new MemoryError('MEMORY_PROCESS_GONE', `QEMU (pid ${pid}) is gone`, { cause, details: { pid } })
  }
}

function thaw(pid: number): void {
  try {
    process.kill(pid, 'SIGCONT')
  } catch (error) {
    // A process that is gone isn't frozen.
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

/**
 * Runs `action` while no thread of a process runs. An agent that dies in
 * between leaves the process stopped; whoever adopts it sends SIGCONT first.
 */
export async function whileFrozen<T>(freeze: Freeze, action: () => Promise<T>): Promise<T> {
  using _held = freeze.hold()
  const deadlineMs = performance.now() + FREEZE_TIMEOUT_MS
  while (!(await isStopped(freeze.pid))) {
    if (performance.now() > deadlineMs)
      throw new Error(`process ${freeze.pid} did not stop in ${FREEZE_TIMEOUT_MS} ms`)
    await sleep(0)
  }
  return await action()
}

/** Whether every thread is in state T: field 3 of /proc/PID/task/TID/stat, after the name in parentheses (proc(5)). */
async function isStopped(pid: number): Promise<boolean> {
  const threads = await readdir(`/proc/${pid}/task`).catch((cause) => {
    throw procError(pid, 'task', cause)
  })
  const stats = await Promise.all(
    // A thread that has ended meanwhile writes no more.
    threads.map((tid) => readFile(`/proc/${pid}/task/${tid}/stat`, 'utf8').catch(() => null)),
  )
  return stats.every((stat) => stat === null || stat.slice(stat.lastIndexOf(')') + 2).startsWith('T'))
}
