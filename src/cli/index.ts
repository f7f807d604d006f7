/** The command line: parses, asks the agent, renders. */
export { CLI_ERRORS, CliError } from './errors.ts'
export { runCli } from './run.ts'
export type { CliComponents } from './session.ts'
