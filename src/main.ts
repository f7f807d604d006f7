import { runCli } from './cli/index.ts'

/**
 * The command line starts in a fraction of the time that the agent's
 * libraries take to load: only `drover agent` and a doctor without an agent
 * load them.
 */
process.exitCode = await runCli(process.argv.slice(2), {
  agent: async (flags, signal) => (await import('./agent/index.ts')).runAgent(flags, signal),
  doctor: async (flags, signal) => (await import('./agent/index.ts')).localDoctor(flags, signal),
})
