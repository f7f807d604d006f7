import type { DoctorCheck, DoctorReply } from '../api-schema.ts'
import type { AgentConfig } from '../config.ts'
import { dataDirCheck, openFilesCheck, socketCheck, tmpfsCheck } from './host.ts'
import { guestMemoryChecks, softDirtyCheck, yamaCheck } from './memory.ts'
import { nodeCheck, qemuChecks, qemuImgCheck } from './programs.ts'

/**
 * What on this machine would keep drover from working. Everything is tried,
 * nothing is assumed; nothing is changed.
 *
 * @param answered - whether the agent itself runs this
 */
export async function diagnose(
  config: AgentConfig,
  { signal, answered }: { signal: AbortSignal; answered: boolean },
): Promise<DoctorReply> {
  const found = await Promise.all([
    nodeCheck(),
    qemuChecks(config, signal),
    qemuImgCheck(signal),
    guestMemoryChecks(),
    softDirtyCheck(),
    yamaCheck(),
    tmpfsCheck(),
    dataDirCheck(config),
    socketCheck(config, answered),
    openFilesCheck(),
  ])
  const checks: DoctorCheck[] = found.flat()
  return { ok: checks.every(({ ok, required }) => ok || !required), checks }
}
