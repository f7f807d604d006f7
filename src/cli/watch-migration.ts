import type { MigrationReply } from '../agent/api-schema.ts'
import { DroverError } from '../domain/errors.ts'
import type { MigrationProgress, MigrationReport } from '../domain/migration.ts'
import { apiPath } from './client.ts'
import type { Session } from './session.ts'
import { formatBytes, formatCount } from './units.ts'

/** Ctrl-C asks for a cancel and waits on: only the report says who has the VM. */
export const UNINTERRUPTED = new AbortController().signal

/** Follows a move until its report is there. */
export async function watchMigration(
  { client }: Session,
  migrationId: string,
  { signal, onProgress }: { signal: AbortSignal; onProgress: (progress: MigrationProgress) => void },
): Promise<MigrationReport> {
  const request = { method: 'GET', path: apiPath`/migrations/${migrationId}/watch`, signal } as const
  return await client.operation<MigrationProgress, MigrationReport>(request, onProgress)
}

/** Where a move is, in half a line. */
export function describeProgress(progress: MigrationProgress): string {
  const { vm, phase, round, pagesSent, bytesSent, throttlePercent } = progress
  const where = phase === 'rounds' ? `round ${round}` : phase
  const slowed = throttlePercent > 0 ? `, guest slowed by ${throttlePercent} %` : ''
  return `${vm}: ${where}, ${formatCount(pagesSent)} pages, ${formatBytes(bytesSent)}${slowed}`
}

/** Asks for a cancel. What came of it is in the report, so an answer of "too late" is only told. */
export async function cancelMigration({ client, out }: Session, migrationId: string): Promise<void> {
  const path = apiPath`/migrations/${migrationId}/cancel`
  try {
    await client.request<MigrationReply>('POST', path, undefined, UNINTERRUPTED)
  } catch (error) {
    if (!(error instanceof DroverError)) throw error
    out.note(`drover: ${error.message} (${error.code})`)
  }
}
