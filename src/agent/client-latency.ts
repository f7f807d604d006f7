import type { Policy } from '../domain/policy.ts'
import type { NicSpec, PeerIdText, VmSpec } from '../domain/vm.ts'
import type { Mesh } from '../mesh/index.ts'
import {
  askProbes,
  ClientProbes,
  HostNames,
  LearnedClients,
  type OwnCoordinate,
  type PlacedPeer,
  PROBE_CHANNELS,
  PROBE_PROTOCOL,
  type ProbedVm,
  Prober,
  ProbeServer,
  type ProbingNode,
} from '../placement/probing/index.ts'
import type { VmService } from '../vm/index.ts'
import type { ClientLatencyReply, RebalancePlanReply } from './api-schema.ts'

export interface ProbingParts {
  mesh: Mesh
  policy: Policy
  vms: Pick<VmService, 'list'>
  coordinate: Pick<OwnCoordinate, 'now'>
}

/**
 * Starts to probe the clients of this node's VMs, and those of others for them.
 *
 * @param running - gets what ends it
 */
export async function startClientProbes(
  { mesh, policy, vms, coordinate }: ProbingParts,
  running: AsyncDisposableStack,
): Promise<ClientProbes> {
  const prober = new Prober()
  const server = new ProbeServer({
    prober,
    policy,
    probesLoopback: () => mesh.isOnOneMachine,
  })
  await mesh.handle(PROBE_PROTOCOL, server.handler, PROBE_CHANNELS)
  const learned = new LearnedClients()
  const probes = new ClientProbes({
    prober,
    names: new HostNames(),
    vms: () => probedVms(vms, learned),
    nodes: () => probingNodes(mesh),
    self: () => ({ peerId: mesh.peerId, coordinate: coordinate.now }),
    ask: (peer, targets, signal) =>
      askProbes((to, protocol, bounded) => mesh.open(to, protocol, bounded), peer, targets, signal),
  })
  probes.start()
  running.defer(() => {
    // What is being probed isn't waited for.
    prober.stop()
    return probes.stop()
  })
  return probes
}

/** Peers that this node is connected to, with the coordinates that they announced. */
export function placedPeers(mesh: Mesh): PlacedPeer[] {
  const connected = new Set(mesh.members().flatMap(({ peerId, connected }) => (connected ? [peerId] : [])))
  return mesh.directory().flatMap(({ peerId, self, facts: { coordinate } }) => {
    return self || coordinate === null || !connected.has(peerId) ? [] : [{ peerId, coordinate }]
  })
}

/** What clients of a VM had from nodes when it was last measured, the nearest first. */
export function clientLatency(
  probes: ClientProbes,
  mesh: Mesh,
  { id, clients }: Pick<VmSpec, 'id' | 'clients'>,
): ClientLatencyReply | null {
  const sample = probes.samples(id, clients).at(-1)
  if (sample === undefined) return null
  const nameOf = nodeNames(mesh)
  const nodes = [...sample.latencyMs].map(([peerId, latencyMs]) => {
    return { peerId, name: nameOf(peerId), latencyMs }
  })
  return { atMs: Math.round(sample.atMs), nodes: nodes.toSorted((a, b) => a.latencyMs - b.latencyMs) }
}

/** Nodes that no VM of this one is compared with, as they don't probe its clients. */
export function notProbingNodes(probes: ClientProbes, mesh: Mesh): RebalancePlanReply['notProbing'] {
  const nameOf = nodeNames(mesh)
  return [...probes.troubles()].map(([peerId, code]) => ({ peerId, name: nameOf(peerId), code }))
}

/** A node that isn't known any more goes by its id. */
function nodeNames(mesh: Mesh): (peerId: PeerIdText) => string {
  const names = new Map(mesh.directory().map(({ peerId, name }) => [peerId, name]))
  return (peerId) => names.get(peerId) ?? peerId
}

async function probedVms(vms: Pick<VmService, 'list'>, learned: LearnedClients): Promise<ProbedVm[]> {
  const specs = vms
    .list()
    .flatMap(({ spec, state }) => (spec.auto && state.kind === 'running' && !state.paused ? [spec] : []))
  const unnamed = specs.filter(({ clients }) => clients.length === 0)
  await learned.look(unnamed.map(({ id, nics }) => ({ id, hostPorts: nics.flatMap(tcpPorts) })))
  return specs.map(({ id, templateId, clients }) => {
    return { id, templateId, clients: clients.length === 0 ? learned.of(id) : clients }
  })
}

function tcpPorts({ forwards }: NicSpec): number[] {
  return forwards.flatMap(({ protocol, hostPort }) => (protocol === 'tcp' ? [hostPort] : []))
}

function probingNodes(mesh: Mesh): ProbingNode[] {
  const holders = new Map<string, ReadonlySet<string>>()
  const holdersOf = (id: string): ReadonlySet<string> => {
    const known = holders.get(id) ?? new Set(mesh.announcersOf(id))
    holders.set(id, known)
    return known
  }
  return mesh.directory().flatMap(({ peerId, self, facts: { qemu, memory, coordinate, draining } }) => {
    if (self || draining || qemu === null || memory === null) return []
    return [{ peerId, coordinate, holds: (id: string) => holdersOf(id).has(peerId) }]
  })
}
