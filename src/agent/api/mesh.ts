import type { FastifyInstance } from 'fastify'
import type { MemberReply, PingReply } from '../api-schema.ts'
import type { AgentParts } from '../parts.ts'
import { closeSignal } from './request.ts'

/** GET /mesh/token, GET /mesh/members, POST /peers/PEER/ping. */
export function meshRoutes(server: FastifyInstance, { mesh }: AgentParts): void {
  server.get('/mesh/token', () => ({ token: mesh.token() }))

  server.get('/mesh/members', (): { members: MemberReply[] } => ({ members: mesh.members() }))

  server.post<{ Params: { peer: string } }>(
    '/peers/:peer/ping',
    async (request, reply): Promise<PingReply> => {
      const peerId = mesh.resolve(request.params.peer)
      const rttMs = await mesh.ping(peerId, { signal: closeSignal(reply) })
      return { peerId, name: mesh.members().find((member) => member.peerId === peerId)?.name ?? null, rttMs }
    },
  )
}
