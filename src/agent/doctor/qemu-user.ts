import { DroverError } from '../../domain/errors.ts'
import { openQemuUser, type QemuUser } from '../../qemu/index.ts'
import type { DoctorCheck } from '../api-schema.ts'
import { type AgentConfig, passagesOf } from '../config.ts'

/**
 * Whom QEMU runs as. A guest that breaks out of a QEMU of root's has the node.
 *
 * @returns user - null where QEMU runs, or would have to run, as the agent's own
 */
export async function qemuUserCheck(
  config: AgentConfig,
): Promise<{ check: DoctorCheck; user: QemuUser | null }> {
  const check = { check: 'qemu-user', required: config.qemuUser !== null }
  if (config.qemuUser === null) {
    const ok = process.getuid?.() !== 0
    const detail = ok ? "QEMU runs as the agent's user, who is not root" : 'QEMU runs as root'
    const remedy = ok ? null : 'make a user for it, and name it with --qemu-user or `qemuUser`'
    return { check: { ...check, ok, detail, remedy }, user: null }
  }
  try {
    const user = await openQemuUser(config.qemuUser, passagesOf(config))
    const detail = `QEMU runs as ${user.name} (uid ${user.uid}, gid ${user.gid})`
    return { check: { ...check, ok: true, detail, remedy: null }, user }
  } catch (error) {
    if (!(error instanceof DroverError)) throw error
    const remedy =
      'run the agent as root, and name with --qemu-user or `qemuUser` a user of this machine that is not'
    return { check: { ...check, ok: false, detail: error.message, remedy }, user: null }
  }
}
