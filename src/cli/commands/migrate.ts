import { type Command, Option } from 'commander'
import type { ApiError, MigrateReply, MigrateRequest } from '../../agent/api-schema.ts'
import { DroverError } from '../../domain/errors.ts'
import { DEFAULT_PARALLEL_MOVES, MAX_PARALLEL_MOVES, type MigrationOutcome } from '../../domain/migration.ts'
import { worstExitCode } from '../exit-code.ts'
import { examples } from '../help.ts'
import { countTo, positive, rate } from '../options.ts'
import { renderReport } from '../render-report.ts'
import type { Action, Session } from '../session.ts'
import { HerdWatch } from '../watch-herd.ts'
import { UNINTERRUPTED } from '../watch-migration.ts'

interface MigrateOptions {
  to: string
  parallel: number
  maxBandwidth?: number
  maxBlackout?: number
  detach?: boolean
}

type Start = MigrateReply['migrations'][number]

export function registerMigrate(program: Command, action: Action): void {
  program
    .command('migrate')
    .argument('<name...>', 'VMs of this node')
    .description(
      'Move running VMs to another node, side by side. The other node must have memory for all of them together, or none ' +
        'is moved. Ctrl-C cancels the moves and waits for their end; what is not there by then stays here. ' +
        'The exit code is that of the worst move.',
    )
    .addHelpText(
      'before',
      examples(
        ['drover migrate web-1 --to edge-2', ''],
        ['drover migrate web-1 web-2 web-3 --to edge-2 --max-bandwidth 100Mbit', 'one limit for all three'],
        ['drover migrate web-1 web-2 --to edge-2 --parallel 1', 'one after the other'],
        ['drover migrate web-1 --to edge-2 --json | jq .durationsMs.blackout', ''],
      ),
    )
    .requiredOption('--to <peer>', "the destination's name or peer id")
    .addOption(
      new Option(
        '--parallel <n>',
        `moves side by side, up to ${MAX_PARALLEL_MOVES}; the others wait for their turn`,
      )
        .argParser(countTo(MAX_PARALLEL_MOVES))
        .default(DEFAULT_PARALLEL_MOVES),
    )
    .option(
      '--max-bandwidth <rate>',
      'at most so much on the link, within 5 %, all moves together: 100Mbit, 12MB/s',
      rate,
    )
    .option(
      '--max-blackout <ms>',
      'slow the guest down, or end its move, rather than keep it stopped for longer',
      positive,
    )
    .option('--detach', 'print the ids of the moves and return; see `drover migration watch`')
    .action(
      action(async (session, options: MigrateOptions, names: string[]) => {
        const starts = await start(session, options, names)
        const outcomes = options.detach
          ? starts.map((started) => detached(session, started))
          : await watched(session, starts)
        // What was interrupted is not done, even where the moves were faster.
        return worstExitCode(session.signal.aborted ? [...outcomes, 'cancelled'] : outcomes)
      }),
    )
}

/** Not cut short by Ctrl-C: what was started has to be known to be cancelled. */
async function start({ client, signal }: Session, options: MigrateOptions, vms: string[]): Promise<Start[]> {
  signal.throwIfAborted()
  const body: MigrateRequest = {
    vms,
    to: options.to,
    maxBandwidthBytesPerSecond: options.maxBandwidth ?? null,
    maxBlackoutMs: options.maxBlackout ?? null,
    parallel: options.parallel,
  }
  return (await client.request<MigrateReply>('POST', '/migrations', body, UNINTERRUPTED)).migrations
}

function detached(session: Session, started: Start): MigrationOutcome {
  if ('error' in started) return failed(session, started.vm, started.error)
  session.out.result(started, ({ migrationId }) => migrationId)
  return 'completed'
}

async function watched(session: Session, starts: readonly Start[]): Promise<MigrationOutcome[]> {
  const { out, signal } = session
  const watch = new HerdWatch(session)
  const cancel = () => void watch.cancel()
  const outcomes = starts.map(async (started): Promise<MigrationOutcome> => {
    if ('error' in started) return failed(session, started.vm, started.error)
    try {
      const report = await watch.follow(started.migrationId)
      out.result(report, renderReport)
      if (out.json && report.error !== null)
        out.note(`drover: ${report.error.message} (${report.error.code})`)
      return report.outcome
    } catch (error) {
      if (!(error instanceof DroverError)) throw error
      return failed(session, started.vm, error)
    }
  })
  signal.addEventListener('abort', cancel, { once: true })
  // Aborted between the start and the listener: nobody else would cancel.
  if (signal.aborted) cancel()
  try {
    return await Promise.all(outcomes)
  } finally {
    signal.removeEventListener('abort', cancel)
  }
}

/** One VM that can't be moved doesn't keep the others here. */
function failed(
  { out }: Session,
  vm: string,
  { code, outcome, message, details }: ApiError,
): MigrationOutcome {
  out.error(new DroverError(code, outcome, `${vm}: ${message}`, { details: { vm, ...details } }))
  return outcome === 'usage' ? 'refused' : outcome
}
