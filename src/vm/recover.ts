import type { ProcessIdentity } from '../domain/vm.ts'
import { QemuProcess } from '../qemu/index.ts'
import { lastWords } from './exit-reason.ts'

/** What became of a VM's QEMU while no agent watched. */
export type Found =
  | { kind: 'alive'; process: QemuProcess }
  | { kind: 'gone'; reason: string }
  /** It lives and doesn't answer. */
  | { kind: 'unreachable'; reason: string }

/** Finds the QEMU of a record again. */
export async function findProcess(identity: ProcessIdentity, runDir: string): Promise<Found> {
  try {
    const process = await QemuProcess.adopt(identity, runDir)
    if (process !== null) return { kind: 'alive', process }
    return { kind: 'gone', reason: `its QEMU ended while no agent watched${await lastWords(runDir)}` }
  } catch (error) {
    return { kind: 'unreachable', reason: (error as Error).message }
  }
}

/**
 * Lets a guest go on, as `reconcileGuest` does.
 *
 * @throws Error when it doesn't run then
 */
export async function resumeGuest(process: QemuProcess): Promise<void> {
  await reconcileGuest(process, { paused: false })
  const status = await process.status()
  if (status !== 'running') throw new Error(`QEMU says that its guest is '${status}'`)
}

/** Run states (RunState in qapi/run-state.json) in which `cont` is all that a guest waits for. */
const WAITING = ['paused', 'prelaunch', 'postmigrate', 'save-vm']

/**
 * Brings a guest to where its record says. One that QEMU has halted, by an I/O
 * error or a panic, is left for a person to look at.
 */
export async function reconcileGuest(process: QemuProcess, { paused }: { paused: boolean }): Promise<void> {
  const status = await process.status()
  if (paused && status === 'running') await process.pause()
  if (!paused && WAITING.includes(status)) await process.resume()
}
