import { type Command, Option } from 'commander'
import type { MigrationReply } from '../../agent/api-schema.ts'
import type { MigrationProgress } from '../../domain/migration.ts'
import { apiPath } from '../client.ts'
import { worstExitCode } from '../exit-code.ts'
import { examples } from '../help.ts'
import { renderReport } from '../render-report.ts'
import type { Action } from '../session.ts'
import { renderFacts, renderTable } from '../table.ts'
import { formatBytes, formatCount, formatMs } from '../units.ts'
import { describeProgress, watchMigration } from '../watch-migration.ts'

export function registerMigration(program: Command, action: Action): void {
  const migration = program
    .command('migration')
    .helpCommand(false)
    .description('Moves of VMs, under way and past. ID as `migration ls` shows it.')

  migration
    .command('ls')
    .description('List the moves that this node remembers.')
    .addHelpText('before', examples(['drover migration ls', '']))
    .action(
      action(async ({ client, out }) => {
        out.result(await client.request<{ migrations: MigrationReply[] }>('GET', '/migrations'), renderList)
      }),
    )

  migration
    .command('show')
    .argument('<id>')
    .description('Show one move; its report once it has ended.')
    .addHelpText('before', examples(['drover migration show ID --json', '']))
    .action(
      action(async ({ client, out }, _options, id: string) => {
        out.result(await client.request<MigrationReply>('GET', apiPath`/migrations/${id}`), renderOne)
      }),
    )

  migration
    .command('watch')
    .argument('<id>')
    .description(
      'Follow a move to its end; the exit code is its outcome. Ctrl-C stops watching, not the move.',
    )
    .addHelpText('before', examples(['drover migration watch ID', '']))
    .action(
      action(async (session, _options, id: string) => {
        const { out, signal } = session
        const onProgress = (progress: MigrationProgress) => out.progress(describeProgress(progress))
        const report = await watchMigration(session, id, { signal, onProgress })
        out.result(report, renderReport)
        return worstExitCode([report.outcome])
      }),
    )

  migration
    .command('cancel')
    .argument('<id>')
    .description('Cancel a move: the VM stays here. Refused once the destination may own the VM.')
    .addHelpText('before', examples(['drover migration cancel ID', '']))
    .action(
      action(async ({ client, out }, _options, id: string) => {
        out.result(await client.request<MigrationReply>('POST', apiPath`/migrations/${id}/cancel`), renderOne)
      }),
    )

  migration
    .command('resolve')
    .argument('<id>')
    .description(
      'Decide who owns the VM of a move in doubt, for a node that is lost for good: it resolves by itself as soon ' +
        'as both nodes have talked. Decide wrongly, and the VM runs twice or is lost.',
    )
    .addHelpText(
      'before',
      examples([
        'drover migration resolve ID --owner source',
        'the destination is lost: the VM goes on here',
      ]),
    )
    .addOption(
      new Option('--owner <node>', 'who keeps the VM')
        .choices(['source', 'destination'])
        .makeOptionMandatory(),
    )
    .action(
      action(async ({ client, out }, { owner }: { owner: 'source' | 'destination' }, id: string) => {
        const { vm, to } = await client.request<MigrationReply>('GET', apiPath`/migrations/${id}`)
        out.note(`warning: ${RESOLVE_WARNING[owner](vm, to)}`)
        out.result(
          await client.request<MigrationReply>('POST', apiPath`/migrations/${id}/resolve`, { owner }),
          renderOne,
        )
      }),
    )
}

/** What a decision means where it is wrong. */
const RESOLVE_WARNING = {
  source: (vm: string, to: string) =>
    `'${vm}' goes on here. If ${to} took it, it runs twice from now on: end it there before that node comes back.`,
  destination: (vm: string, to: string) =>
    `what is here of '${vm}' is given up. If ${to} did not take it, it is lost.`,
} as const

function renderList({ migrations }: { migrations: MigrationReply[] }): string {
  return renderTable(
    ['ID', 'VM', 'OUTCOME', 'TO', 'TOTAL', 'BLACKOUT'],
    migrations.map(({ migrationId, vm, outcome, running, to, durationsMs }) => [
      migrationId,
      vm,
      running ? 'running' : outcome,
      to,
      formatMs(durationsMs.total),
      durationsMs.blackout > 0 ? formatMs(durationsMs.blackout) : '-',
    ]),
  )
}

function renderOne(migration: MigrationReply): string {
  if (!migration.running) return renderReport(migration)
  const { migrationId, vm, to, pages, bytes } = migration
  return renderFacts([
    ['migration', migrationId],
    ['vm', `${vm}: on its way`],
    ['to', to],
    ['sent', `${formatCount(pages.sent)} pages, ${formatBytes(bytes.wire)}`],
  ])
}
