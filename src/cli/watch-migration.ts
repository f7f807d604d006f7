import type { MigrationReply } from '../agent/api-schema.ts'
import { DroverError } from '../domain/errors.ts'
import type { MigrationProgress, MigrationReport } from '../domain/migration.ts'
import { apiPath } from './client.ts'
import type { Session } from './session.ts'
import { formatBytes, formatCount } from './units.ts'

/** Ctrl-C asks for a cancel and waits on: only the report says who has the VM. */
const UNINTERRUPTED = new AbortController().signal

/** Shows a move's progress until its report is there. */
export async function watchMigration(
  { client, out }: Session,
  migrationId: string,
  signal: AbortSignal = UNINTERRUPTED,
): Promise<MigrationReport> {
  const request = { method: 'GET', path: apiPath`/migrations/${migrationId}/watch`, signal } as const
  return await client.operation<MigrationProgress, MigrationReport>(request, (progress) => {
    const { vm, phase, round, pagesSent, bytesSent } = progress
    const where = phase === 'rounds' ? `round ${round}` : phase
    out.progress(`${vm}: ${where}, ${formatCount(pagesSent)} pages, ${formatBytes(bytesSent)}`)
  })
}

/** Asks for a cancel. What came of it is in the report, so an answer of "too late" is only told. */
export async function cancelMigration({ client, out }: Session, migrationId: string): Promise<void> {
  out.note('cancelling; waiting for the move to end (Ctrl-C again to leave at once)')
  try {
    await client.request<MigrationReply>(
      'POST',
      apiPath`/migrations/${migrationId}/cancel`,
      undefined,
      UNINTERRUPTED,
    )
  } catch (error) {
    if (!(error instanceof DroverError)) throw error
    out.note(`drover: ${error.message} (${error.code})`)
  }
}
