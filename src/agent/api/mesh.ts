import type { FastifyInstance } from 'fastify'
import type { NodeView } from '../../domain/node.ts'
import type {
  MemberReply,
  MeshTemplatesReply,
  MeshVmsReply,
  NodeReply,
  PingReply,
  RemovalReply,
} from '../api-schema.ts'
import { meshTemplates, meshVms } from '../mesh-inventory.ts'
import type { AgentParts } from '../parts.ts'
import { closeSignal } from './request.ts'

/** GET /mesh/{token,members,directory,templates,vms}, POST /peers/PEER/ping, POST /mesh/members/PEER/remove. */
export function meshRoutes(server: FastifyInstance, { mesh }: AgentParts): void {
  server.get('/mesh/token', () => ({ token: mesh.token() }))

  server.get('/mesh/members', (): { members: MemberReply[] } => ({ members: mesh.members() }))

  server.get('/mesh/directory', (): { nodes: NodeReply[] } => ({ nodes: mesh.directory().map(nodeReply) }))

  server.get(
    '/mesh/templates',
    (_request, reply): Promise<MeshTemplatesReply> => meshTemplates(mesh, closeSignal(reply)),
  )

  server.get('/mesh/vms', (_request, reply): Promise<MeshVmsReply> => meshVms(mesh, closeSignal(reply)))

  server.post<{ Params: { peer: string } }>(
    '/mesh/members/:peer/remove',
    (request): Promise<RemovalReply> => mesh.remove(request.params.peer),
  )

  server.post<{ Params: { peer: string } }>(
    '/peers/:peer/ping',
    async (request, reply): Promise<PingReply> => {
      const peerId = mesh.resolve(request.params.peer)
      const rttMs = await mesh.ping(peerId, { signal: closeSignal(reply) })
      const known = [...mesh.members(), ...mesh.directory()]
      return { peerId, name: known.find((node) => node.peerId === peerId)?.name ?? null, rttMs }
    },
  )
}

function nodeReply(view: NodeView): NodeReply {
  const { peerId, name, addresses, self, facts, templatesTotal, vmsTotal, receivedAtMs, expiresAtMs } = view
  const nowMs = performance.timeOrigin + performance.now()
  return {
    peerId,
    name,
    addresses,
    self,
    ...facts,
    templatesTotal,
    vmsTotal,
    ageMs: self ? null : Math.round(nowMs - receivedAtMs),
    expiresInMs: self ? null : Math.max(0, Math.round(expiresAtMs - nowMs)),
  }
}
