import { access } from 'node:fs/promises'
import { delimiter, join } from 'node:path'
import { openQemuUser, type QemuUser } from '../../src/qemu/index.ts'
import { mayUse } from '../../src/qemu/user.ts'

/** Every system has it, and nothing belongs to it. */
export const UNPRIVILEGED = 'nobody'

/**
 * The user for a QEMU that isn't root's, or why this machine can't start one as another user.
 *
 * @param qemu - path or name of the program
 */
export async function unprivilegedUser(
  qemu: string,
  passages: readonly string[],
): Promise<{ user: QemuUser; reason: string } | { user: null; reason: string }> {
  if (process.getuid?.() !== 0) return { user: null, reason: 'only root can start QEMU as another user' }
  const user = await openQemuUser(UNPRIVILEGED, passages)
  const candidates = qemu.includes('/')
    ? [qemu]
    : process.env.PATH!.split(delimiter).map((dir) => join(dir, qemu))
  for (const path of candidates) {
    if (!(await exists(path))) continue
    if (await mayUse(user, '-r', path)) return { user, reason: '' }
  }
  return { user: null, reason: `${qemu} lies where ${UNPRIVILEGED} may not go` }
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  )
}
