import type { FastifyInstance } from 'fastify'
import { DROVER_VERSION } from '../../domain/version.ts'
import type { StatusReply } from '../api-schema.ts'
import { diagnose } from '../doctor/index.ts'
import type { AgentParts } from '../parts.ts'
import { closeSignal } from './request.ts'

/** GET /status, GET /doctor: this node. */
export function nodeRoutes(server: FastifyInstance, parts: AgentParts): void {
  server.get('/status', () => status(parts))
  server.get('/doctor', (_request, reply) =>
    diagnose(parts.config, { signal: closeSignal(reply), answered: true }),
  )
}

async function status(parts: AgentParts): Promise<StatusReply> {
  const { config, mesh, policy, qemu, templates, hypervisor } = parts
  const records = hypervisor?.vms.list() ?? []
  const members = mesh.members()
  const moves = (await hypervisor?.migrations.list()) ?? []
  return {
    peerId: mesh.peerId,
    name: mesh.name,
    version: DROVER_VERSION,
    pid: process.pid,
    uptimeMs: Math.round(process.uptime() * 1000),
    addresses: mesh.addresses(),
    dataDir: config.dataDir,
    socket: config.socket,
    policy: policy.settings,
    qemu,
    memory: (await hypervisor?.vms.memory()) ?? null,
    draining: hypervisor?.drains.isDraining ?? false,
    rebalancer: hypervisor?.rebalancer.status() ?? null,
    prefetch: hypervisor?.prefetch.status() ?? null,
    keptPages: hypervisor?.migrations.keptPages.bytes() ?? null,
    preparedQemus: hypervisor?.vms.preparedQemus() ?? [],
    counts: {
      vms: records.length,
      vmsRunning: records.filter(({ state }) => state.kind === 'running' && !state.paused).length,
      templates: templates.list().length,
      members: members.length,
      membersConnected: members.filter((member) => member.connected).length,
      migrationsRunning: moves.filter(({ running }) => running).length,
    },
  }
}
