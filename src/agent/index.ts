/**
 * One node: the composition root of all rooms, its settings, and the local
 * API (`api-schema.ts`) on a unix socket.
 */
export { type AgentConfig, type AgentFlags, loadConfig } from './config.ts'
export { AGENT_ERRORS, AgentError } from './errors.ts'
export { localDoctor, runAgent } from './run-agent.ts'
