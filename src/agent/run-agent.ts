import { once } from 'node:events'
import { setFlagsFromString } from 'node:v8'
import type { DoctorReply } from './api-schema.ts'
import { type AgentFlags, loadConfig } from './config.ts'
import { diagnose } from './doctor/index.ts'
import { openLog } from './log.ts'

/** What the agent and the QEMUs that it starts make is their user's alone. */
const PRIVATE_UMASK = 0o077

/**
 * Pages go through buffers outside of V8's heap. By itself V8 collects all of
 * the heap, 20 to 60 ms of both cores, after each 20 MiB or so of them: with
 * 268 MB fetched that was 90 times, and more than half of all CPU time. Counted
 * with the heap they make it collect when memory really grows.
 */
const V8_FLAGS = '--external-memory-accounted-in-global-limit'

/**
 * Runs a node until the signal.
 *
 * @throws AgentError when the config is wrong or another agent runs; errors of the rooms that can't start
 */
export async function runAgent(flags: AgentFlags, signal: AbortSignal): Promise<void> {
  process.umask(PRIVATE_UMASK)
  setFlagsFromString(V8_FLAGS)
  const config = await loadConfig(flags)
  const log = openLog(config.logLevel)
  // All of libp2p and more: a wrong setting is told before that is loaded, and the doctor needs none of it.
  const { Agent } = await import('./agent.ts')
  await using agent = new Agent({ log }, config)
  await agent.start(signal)
  if (!signal.aborted) await once(signal, 'abort')
  log.info('stopping; VMs run on')
}

/** The doctor of a machine whose agent doesn't answer. */
export async function localDoctor(flags: AgentFlags, signal: AbortSignal): Promise<DoctorReply> {
  return await diagnose(await loadConfig(flags), { signal, answered: false })
}
