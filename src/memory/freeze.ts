import { readdir, readFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'

/** A stop signal reaches every thread within microseconds; a thread in an uninterruptible wait takes longer. */
const FREEZE_TIMEOUT_MS = 200
/** Two words: how many hold the process frozen, and whether one of them is just changing that. */
const SHARED_BYTES = 8
const [HOLDERS, LOCK] = [0, 1]

/**
 * Holds a process frozen while at least one holder wants it: a scan and the
 * throttle may overlap, and may be in different threads, which then share
 * `shared`. SIGSTOP rather than QMP `stop`: the guest's clocks go on as if the
 * host were busy, no disk is flushed, and it takes microseconds.
 */
export class Freeze {
  readonly pid: number
  readonly shared: SharedArrayBuffer
  readonly #words: Int32Array

  constructor(pid: number, shared = new SharedArrayBuffer(SHARED_BYTES)) {
    this.pid = pid
    this.shared = shared
    this.#words = new Int32Array(shared)
  }

  /**
   * Freezes the process until the result is disposed.
   *
   * @throws an error with code ESRCH when the process is gone
   */
  hold(): Disposable {
    this.#change(1)
    const held = new DisposableStack()
    held.defer(() => this.#change(-1))
    return held
  }

  // Counting and signalling are one step: else a late SIGCONT would end a hold that began after the count.
  #change(by: 1 | -1): void {
    // A system call long.
    while (Atomics.compareExchange(this.#words, LOCK!, 0, 1) !== 0);
    try {
      const before = Atomics.load(this.#words, HOLDERS!)
      if (before === 0) process.kill(this.pid, 'SIGSTOP')
      Atomics.store(this.#words, HOLDERS!, before + by)
      if (before + by === 0) thaw(this.pid)
    } finally {
      Atomics.store(this.#words, LOCK!, 0)
    }
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
  const threads = await readdir(`/proc/${pid}/task`)
  const stats = await Promise.all(
    // A thread that has ended meanwhile writes no more.
    threads.map((tid) => readFile(`/proc/${pid}/task/${tid}/stat`, 'utf8').catch(() => null)),
  )
  return stats.every((stat) => stat === null || stat.slice(stat.lastIndexOf(')') + 2).startsWith('T'))
}
