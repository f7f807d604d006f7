import { CommanderError } from 'commander'
import { codedError, DroverError } from '../domain/errors.ts'
import { CliError } from './errors.ts'
import { EXIT_CODES, type ExitCode } from './exit-code.ts'
import { Output } from './output.ts'
import { buildProgram } from './program.ts'
import { actions, type CliComponents } from './session.ts'

/**
 * Runs one command line.
 *
 * @param argv - without node and script
 * @returns the exit code: 0 done, 1 failed, 2 usage, 3 refused, 4 in doubt, 130 cancelled
 */
export async function runCli(argv: readonly string[], components: CliComponents): Promise<ExitCode> {
  tolerateLeftReader()
  using interrupt = interruption()
  let exitCode: ExitCode = 0
  const program = buildProgram(actions(components, interrupt.signal, (code) => (exitCode = code)))
  try {
    await program.parseAsync(argv, { from: 'user' })
    return exitCode
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode === 0) return 0
    // Commander has shown the help of a command that lacks its subcommand.
    if (error instanceof CommanderError && error.code === 'commander.help') return EXIT_CODES.usage
    const known = coded(error, interrupt.signal)
    new Output(process, { json: argv.includes('--json') }).error(known)
    if (known.code === 'INTERNAL') process.stderr.write(`${(error as Error).stack}\n`)
    return EXIT_CODES[known.outcome]
  }
}

function coded(error: unknown, interrupted: AbortSignal): DroverError {
  const known = codedError(error)
  if (known !== null) return known
  if (error instanceof CommanderError)
    return new CliError('USAGE', error.message.replace(/^error: /, '').replaceAll('\n', ' '), {
      cause: error,
    })
  if (interrupted.aborted) return new CliError('CANCELLED', 'cancelled', { cause: error })
  return new DroverError('INTERNAL', 'failed', error instanceof Error ? error.message : String(error), {
    cause: error,
  })
}

/** The first Ctrl-C or SIGTERM asks for an orderly end, the second one ends at once. */
function interruption(): Disposable & { signal: AbortSignal } {
  const controller = new AbortController()
  const interrupt = () => {
    if (controller.signal.aborted) process.exit(EXIT_CODES.cancelled)
    controller.abort()
  }
  process.on('SIGINT', interrupt).on('SIGTERM', interrupt)
  return {
    signal: controller.signal,
    [Symbol.dispose]: () => void process.off('SIGINT', interrupt).off('SIGTERM', interrupt),
  }
}

/** `drover vm ls | head -1`: a reader that has enough is no failure, and doesn't change the exit code. */
function tolerateLeftReader(): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error
  })
}
