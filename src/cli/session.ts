import type { Command } from 'commander'
import type { DoctorReply } from '../agent/api-schema.ts'
import { AgentClient } from './client.ts'
import type { ExitCode } from './exit-code.ts'
import { Output } from './output.ts'

/** What `drover agent` was given; absent means not given. */
export interface AgentFlags {
  config?: string
  name?: string
  dataDir?: string
  socket?: string
  listen?: string[]
  join?: string
  memoryLimitBytes?: number
  templateLimitBytes?: number
  keepLimitBytes?: number
  prefetchLimitBytes?: number
  prepare?: number
  qemu?: string
  qemuUser?: string
  accel?: 'auto' | 'kvm' | 'tcg'
  logLevel?: 'silent' | 'error' | 'warn' | 'info' | 'debug' | 'trace'
}

/** What the command line leaves to others: they load the agent's libraries only when called. */
export interface CliComponents {
  agent: (flags: AgentFlags, signal: AbortSignal) => Promise<void>
  doctor: (flags: AgentFlags, signal: AbortSignal) => Promise<DoctorReply>
}

/** One run of one command. */
export interface Session extends CliComponents {
  client: AgentClient
  out: Output
  socket: string
  /** Times -v was given. */
  verbosity: number
  /** Aborted by Ctrl-C or SIGTERM. */
  signal: AbortSignal
}

export interface GlobalOptions {
  socket: string
  json?: boolean
  verbose?: number
}

export type Handler<Options, Args extends unknown[]> = (
  session: Session,
  options: Options,
  ...args: Args
) => Promise<ExitCode | undefined>

/** Turns a handler into commander's action: opens the session from the global options, keeps the exit code. */
export type Action = <Options, Args extends unknown[]>(
  handler: Handler<Options, Args>,
) => (...received: unknown[]) => Promise<void>

/** @param ended - gets the exit code of the command that ran */
export function actions(
  components: CliComponents,
  signal: AbortSignal,
  ended: (code: ExitCode) => void,
): Action {
  return <Options, Args extends unknown[]>(handler: Handler<Options, Args>) =>
    async (...received: unknown[]) => {
      const command = received.at(-1) as Command
      const { socket, json = false, verbose = 0 } = command.optsWithGlobals<GlobalOptions>()
      const session: Session = {
        ...components,
        client: new AgentClient({ socket, signal }),
        out: new Output(process, { json }),
        socket,
        verbosity: verbose,
        signal,
      }
      const code = await handler(session, command.opts() as Options, ...(received.slice(0, -2) as Args))
      ended(code ?? 0)
    }
}
