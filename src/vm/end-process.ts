import { setTimeout as sleep } from 'node:timers/promises'
import type { ProcessIdentity } from '../domain/vm.ts'
import { isRunning, QemuProcess } from '../qemu/index.ts'

/** A QEMU that lives answers within milliseconds; one that doesn't is killed. */
const CONNECT_TIMEOUT_MS = 2000
const QUIT_STEP_TIMEOUT_MS = 2000
/** The kernel frees the memory of a large guest before the process is gone. */
const KILL_TIMEOUT_MS = 10_000
const KILL_POLL_MS = 20

/**
 * Ends a QEMU that this agent has no connection to. A process that isn't the
 * QEMU of this run directory is left alone: that is checked by start time and
 * command line.
 */
export async function endProcess(identity: ProcessIdentity, runDir: string): Promise<void> {
  try {
    const qemu = await QemuProcess.adopt(identity, runDir, {
      signal: AbortSignal.timeout(CONNECT_TIMEOUT_MS),
    })
    await qemu?.quit({ timeoutMs: QUIT_STEP_TIMEOUT_MS })
  } catch {
    // It is ours and hangs: adopt() fails only after it has checked whose it is.
    await kill(identity)
  }
}

async function kill(identity: ProcessIdentity): Promise<void> {
  const deadlineMs = performance.now() + KILL_TIMEOUT_MS
  while ((await isRunning(identity)) && performance.now() < deadlineMs) {
    try {
      process.kill(identity.pid, 'SIGKILL')
    } catch (error) {
      // Gone since it was looked at.
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
    }
    await sleep(KILL_POLL_MS)
  }
}
