import type { FastifyInstance } from 'fastify'
import type { MigrationProgress, MigrationReport } from '../../domain/migration.ts'
import type { MoveStart } from '../../migration/index.ts'
import { type MigrateReply, type MigrationReply, migrateSchema, resolveSchema } from '../api-schema.ts'
import { type AgentParts, hypervisorOf } from '../parts.ts'
import { apiError, checked, streamReply } from './request.ts'

type MigrationParams = { Params: { id: string } }

/**
 * GET and POST /migrations, GET /migrations/ID, GET /migrations/ID/watch
 * (NDJSON), POST /migrations/ID/{cancel,resolve}. A move belongs to the agent:
 * a client that goes away doesn't end it.
 */
export function migrationRoutes(server: FastifyInstance, parts: AgentParts): void {
  const migrations = () => hypervisorOf(parts).migrations

  const one = async (id: string): Promise<MigrationReply> => migrationReply(await migrations().get(id))

  server.get('/migrations', async () => ({ migrations: (await migrations().list()).map(migrationReply) }))

  server.post('/migrations', (request): MigrateReply => {
    const { to, ...rest } = checked(migrateSchema, request.body)
    const starts = migrations().migrate({ ...rest, to: parts.mesh.resolve(to) })
    return { migrations: starts.map(startReply) }
  })

  server.get<MigrationParams>('/migrations/:id', (request) => one(request.params.id))

  server.get<MigrationParams>('/migrations/:id/watch', (request, reply) =>
    streamReply<MigrationProgress, MigrationReport>(reply, async (progress, signal) => {
      for await (const step of migrations().progress(request.params.id, signal)) progress(step)
      return (await migrations().get(request.params.id)).report
    }),
  )

  server.post<MigrationParams>('/migrations/:id/cancel', async (request) => {
    await migrations().cancel(request.params.id)
    return await one(request.params.id)
  })

  server.post<MigrationParams>('/migrations/:id/resolve', async (request) => {
    const { owner } = checked(resolveSchema, request.body)
    await migrations().resolve(request.params.id, owner)
    return await one(request.params.id)
  })
}

function startReply(start: MoveStart): MigrateReply['migrations'][number] {
  const { vm } = start
  return 'migrationId' in start
    ? { vm, migrationId: start.migrationId }
    : { vm, error: apiError(start.error).error }
}

function migrationReply({ report, running }: { report: MigrationReport; running: boolean }): MigrationReply {
  return { ...report, running }
}
