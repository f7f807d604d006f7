import { join } from 'node:path'
import { type QemuProcess, readLogTail } from '../qemu/index.ts'

/** The process is gone; what it said before is on its way through the socket at most. */
const LAST_EVENT_TIMEOUT_MS = 1000

/** Causes in QEMU's SHUTDOWN event (ShutdownCause in qapi/run-state.json), as people say it. */
const SHUTDOWN_REASONS: Readonly<Record<string, string>> = {
  'guest-shutdown': 'guest powered off',
  'guest-panic': 'guest panicked',
  'host-signal': 'its QEMU was ended by a signal',
  'host-qmp-quit': 'its QEMU was told to quit',
}

/** Why a QEMU that we watched has ended. */
export async function exitReason(process: QemuProcess): Promise<string> {
  try {
    const { data } = await process.qmp.waitForEvent('SHUTDOWN', () => true, {
      after: 0,
      timeoutMs: LAST_EVENT_TIMEOUT_MS,
    })
    return SHUTDOWN_REASONS[String(data.reason)] ?? `QEMU shut down: ${data.reason}`
  } catch {
    // It died without saying so on the socket.
    return `its QEMU died${await lastWords(process.runDir)}`
  }
}

/** The end of QEMU's log as `: "..."`, or nothing when it said nothing or the log is gone. */
export async function lastWords(runDir: string): Promise<string> {
  try {
    const words = (await readLogTail(join(runDir, 'qemu.log'))).join('\n').trim()
    return words === '' ? '' : `: ${JSON.stringify(words)}`
  } catch {
    return ''
  }
}
