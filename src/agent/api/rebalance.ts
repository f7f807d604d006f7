import type { FastifyInstance } from 'fastify'
import type { RebalancePlanReply, RebalanceReply } from '../api-schema.ts'
import { notProbingNodes } from '../client-latency.ts'
import { type AgentParts, hypervisorOf } from '../parts.ts'

/** GET /rebalance, GET /rebalance/plan, POST /rebalance/{pause,resume}: of this node's VMs. */
export function rebalanceRoutes(server: FastifyInstance, parts: AgentParts): void {
  const node = parts.mesh.name
  const rebalancer = () => hypervisorOf(parts).rebalancer
  const status = (): RebalanceReply => ({ node, ...rebalancer().status() })

  server.get('/rebalance', status)

  server.get('/rebalance/plan', (): RebalancePlanReply => {
    const { paused, lookedAtMs } = rebalancer().status()
    const notProbing = notProbingNodes(hypervisorOf(parts).clientProbes, parts.mesh)
    return { node, paused, lookedAtMs, moves: rebalancer().plan(), notProbing }
  })

  server.post('/rebalance/pause', async () => {
    await rebalancer().pause()
    return status()
  })

  server.post('/rebalance/resume', async () => {
    await rebalancer().resume()
    return status()
  })
}
