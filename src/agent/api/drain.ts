import type { FastifyInstance } from 'fastify'
import { type DrainProgress, type DrainReply, nodeCommandSchema } from '../api-schema.ts'
import type { AgentParts } from '../parts.ts'
import { checked, commandOptions, streamReply } from './request.ts'

/** POST /drain (NDJSON), POST /drain/stop, POST /ready: of this node, or of a peer. */
export function drainRoutes(server: FastifyInstance, { commands, mesh }: AgentParts): void {
  const nodeOf = (body: unknown): string | null => {
    const { peer } = checked(nodeCommandSchema, body)
    return peer === null ? null : mesh.resolve(peer)
  }

  server.post('/drain', (request, reply) => {
    const node = nodeOf(request.body)
    return streamReply<DrainProgress, DrainReply>(reply, (onProgress, signal) =>
      commands.onNode({ kind: 'drain' }, node, { onProgress, signal }),
    )
  })

  server.post('/drain/stop', (request, reply) =>
    commands.onNode({ kind: 'stopDrain' }, nodeOf(request.body), commandOptions(reply)),
  )

  server.post('/ready', (request, reply) =>
    commands.onNode({ kind: 'ready' }, nodeOf(request.body), commandOptions(reply)),
  )
}
