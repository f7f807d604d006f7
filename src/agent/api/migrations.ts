import type { FastifyInstance } from 'fastify'
import type { MigrationProgress, MigrationReport } from '../../domain/migration.ts'
import { type MigrateReply, migrateSchema, resolveSchema } from '../api-schema.ts'
import { type AgentParts, hypervisorOf } from '../parts.ts'
import { checked, commandOptions, streamReply } from './request.ts'

type MigrationParams = { Params: { id: string } }

/**
 * GET and POST /migrations, GET /migrations/ID, GET /migrations/ID/watch
 * (NDJSON), POST /migrations/ID/{cancel,resolve}. VMs are moved from wherever
 * they are; listed are the moves from this node. A move belongs to the agent
 * that moves the VM: a client that goes away doesn't end it.
 */
export function migrationRoutes(server: FastifyInstance, parts: AgentParts): void {
  const { commands, mesh } = parts

  server.get('/migrations', async () => {
    const moves = await hypervisorOf(parts).migrations.list()
    return { migrations: moves.map(({ report, running }) => ({ ...report, running })) }
  })

  server.post('/migrations', (request, reply): Promise<MigrateReply> => {
    const { to, vms, parallel, ...limits } = checked(migrateSchema, request.body)
    const maxBandwidthBytesPerSecond = limits.maxBandwidthBytesPerSecond ?? 0
    const maxBlackoutMs = limits.maxBlackoutMs ?? 0
    const command = { vms, to: mesh.resolve(to), parallel, maxBandwidthBytesPerSecond, maxBlackoutMs }
    return commands.migrate({ kind: 'migrate', ...command }, commandOptions(reply))
  })

  server.get<MigrationParams>('/migrations/:id', (request, reply) =>
    commands.onMove({ kind: 'report', migrationId: request.params.id }, commandOptions(reply)),
  )

  server.get<MigrationParams>('/migrations/:id/watch', (request, reply) =>
    streamReply<MigrationProgress, MigrationReport>(reply, (onProgress, signal) =>
      commands.onMove({ kind: 'watch', migrationId: request.params.id }, { onProgress, signal }),
    ),
  )

  server.post<MigrationParams>('/migrations/:id/cancel', (request, reply) =>
    commands.onMove({ kind: 'cancel', migrationId: request.params.id }, commandOptions(reply)),
  )

  server.post<MigrationParams>('/migrations/:id/resolve', (request, reply) => {
    const { owner } = checked(resolveSchema, request.body)
    return commands.onMove({ kind: 'resolve', migrationId: request.params.id, owner }, commandOptions(reply))
  })
}
