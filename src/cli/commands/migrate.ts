import type { Command } from 'commander'
import type { MigrateRequest } from '../../agent/api-schema.ts'
import { DroverError } from '../../domain/errors.ts'
import type { MigrationOutcome, MigrationReport } from '../../domain/migration.ts'
import { EXIT_CODES, worstExitCode } from '../exit-code.ts'
import { examples } from '../help.ts'
import { positive, rate } from '../options.ts'
import { renderReport } from '../render-report.ts'
import type { Action, Session } from '../session.ts'
import { cancelMigration, watchMigration } from '../watch-migration.ts'

interface MigrateOptions {
  to: string
  maxBandwidth?: number
  maxBlackout?: number
  detach?: boolean
}

export function registerMigrate(program: Command, action: Action): void {
  program
    .command('migrate')
    .argument('<name...>', 'VMs of this node, moved one after the other')
    .description(
      'Move running VMs to another node. Ctrl-C cancels the move under way and waits for its end; the VM stays here then. ' +
        'The exit code is that of the worst move.',
    )
    .addHelpText(
      'before',
      examples(
        ['drover migrate web-1 --to edge-2', ''],
        ['drover migrate web-1 web-2 --to edge-2 --max-bandwidth 100Mbit', ''],
        ['drover migrate web-1 --to edge-2 --json | jq .durationsMs.blackout', ''],
      ),
    )
    .requiredOption('--to <peer>', "the destination's name or peer id")
    .option('--max-bandwidth <rate>', 'at most so much on the link: 100Mbit, 12MB/s', rate)
    .option('--max-blackout <ms>', 'cancel rather than keep the guest stopped for longer', positive)
    .option('--detach', 'print the ids of the moves and return; see `drover migration watch`')
    .action(
      action(async (session, options: MigrateOptions, names: string[]) => {
        const outcomes: MigrationOutcome[] = []
        for (const name of names) {
          if (session.signal.aborted) break
          outcomes.push(
            options.detach ? await detach(session, options, name) : await move(session, options, name),
          )
        }
        if (session.signal.aborted && !outcomes.includes('in-doubt')) return EXIT_CODES.cancelled
        return worstExitCode(outcomes)
      }),
    )
}

async function move(session: Session, options: MigrateOptions, name: string): Promise<MigrationOutcome> {
  const { out, signal } = session
  try {
    const migrationId = await start(session, options, name)
    const cancel = () => void cancelMigration(session, migrationId)
    signal.addEventListener('abort', cancel, { once: true })
    // Aborted between the start and the listener: nobody else would cancel.
    if (signal.aborted) cancel()
    try {
      const report = await watchMigration(session, migrationId)
      out.result(report, renderReport)
      if (out.json && report.error !== null)
        out.note(`drover: ${report.error.message} (${report.error.code})`)
      return report.outcome
    } finally {
      signal.removeEventListener('abort', cancel)
    }
  } catch (error) {
    return failed(session, name, error)
  }
}

async function detach(session: Session, options: MigrateOptions, name: string): Promise<MigrationOutcome> {
  try {
    const migrationId = await start(session, options, name)
    session.out.result({ migrationId, vm: name }, (started) => started.migrationId)
    return 'completed'
  } catch (error) {
    return failed(session, name, error)
  }
}

async function start({ client }: Session, options: MigrateOptions, vm: string): Promise<string> {
  const body: MigrateRequest = {
    vm,
    to: options.to,
    maxBandwidthBytesPerSecond: options.maxBandwidth ?? null,
    maxBlackoutMs: options.maxBlackout ?? null,
  }
  return (await client.request<Pick<MigrationReport, 'migrationId'>>('POST', '/migrations', body)).migrationId
}

/** One VM that can't be moved doesn't keep the others here. */
function failed({ out, signal }: Session, vm: string, error: unknown): MigrationOutcome {
  if (!(error instanceof DroverError)) {
    if (signal.aborted) return 'cancelled'
    throw error
  }
  out.error(
    new DroverError(error.code, error.outcome, `${vm}: ${error.message}`, {
      details: { vm, ...error.details },
    }),
  )
  return error.outcome === 'usage' ? 'refused' : error.outcome
}
