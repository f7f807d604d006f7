import { once } from 'node:events'
import type { FastifyInstance } from 'fastify'
import { NDJSON } from '../api-schema.ts'
import type { AgentParts } from '../parts.ts'
import { closeSignal } from './request.ts'

/** GET /events: one event per line, from now on; `?recent=1` starts with those still remembered. */
export function eventRoutes(server: FastifyInstance, { events }: AgentParts): void {
  server.get<{ Querystring: { recent?: string } }>('/events', async (request, reply) => {
    const signal = closeSignal(reply)
    reply.hijack()
    reply.raw.writeHead(200, { 'content-type': NDJSON })
    reply.raw.flushHeaders()
    for await (const event of events.read({ recent: request.query.recent === '1', signal })) {
      if (reply.raw.write(`${JSON.stringify(event)}\n`)) continue
      // An abort ends the loop above; a full connection waits here for its reader.
      await once(reply.raw, 'drain', { signal }).catch(() => {})
    }
  })
}
