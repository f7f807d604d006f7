import type { Mesh } from '../mesh/index.ts'
import type { TemplateStore } from '../template/index.ts'
import type { AgentConfig } from './config.ts'
import { Drains } from './drain/drains.ts'
import type { EventHub } from './event-hub.ts'
import { LikelyDestinations } from './likely-destinations.ts'
import { cpuLoad } from './node-facts.ts'
import type { NodeSwitches } from './node-switches.ts'
import type { Hypervisor } from './parts.ts'
import { TemplatePrefetch } from './prefetch/prefetch.ts'
import { MemoryWatch } from './pressure/memory-watch.ts'
import { sampleMemory } from './pressure/sample.ts'
import { RebalanceLedger } from './rebalance/rebalance-ledger.ts'
import { RebalanceLoop } from './rebalance/rebalance-loop.ts'
import type { RebalanceMemory } from './rebalance/rebalance-memory.ts'
import { Relocations } from './relocation/relocate.ts'
import { Surroundings } from './relocation/surroundings.ts'

/** What a node that runs VMs has for them beside the moves themselves. */
export interface CaretakerParts extends Omit<Hypervisor, 'drains' | 'rebalancer' | 'prefetch'> {
  config: AgentConfig
  mesh: Mesh
  templates: TemplateStore
  switches: NodeSwitches
  rebalanceMemory: RebalanceMemory
  events: EventHub
}

/**
 * Starts what looks after the VMs of a node by itself, or when a person says so.
 *
 * @param starting - ends it again, in reverse
 */
export function startCaretakers(parts: CaretakerParts, starting: AsyncDisposableStack): Hypervisor {
  const { config, mesh, templates, switches, rebalanceMemory, events, ...rooms } = parts
  const { vms, clientProbes, linkRates } = rooms
  const surroundings = new Surroundings({
    ...parts,
    latencySamples: ({ id, clients }) => clientProbes.samples(id, clients),
    bandwidthBytesPerSecond: (peer) => linkRates.bytesPerSecond(peer),
  })
  const relocations = new Relocations({ ...parts, surroundings })
  const announce = () => mesh.announce()
  const drains = new Drains({ switches, vms, relocations, events, announce }, { node: mesh.name })
  starting.defer(() => drains.stop())
  const isDraining = () => drains.isDraining
  const prefetch = new TemplatePrefetch(
    { ...parts, isDraining },
    {
      limitBytes: config.prefetchLimitBytes,
      templateLimitBytes: config.templateLimitBytes,
    },
  )
  prefetch.start()
  starting.defer(() => prefetch.stop())
  const isPaused = () => isDraining() || switches.isOn('rebalancingPaused')
  const memory = new MemoryWatch({
    ...{ vms, relocations, events, isPaused },
    lookAtMemory: () => surroundings.lookAtMemory(vms.list(), { maxAgeMs: 0 }),
    sample: () => sampleMemory(vms),
  })
  memory.start()
  starting.defer(() => memory.stop())
  const destinations = new LikelyDestinations({ mesh, vms })
  destinations.start()
  starting.defer(() => destinations.stop())
  const rebalancer = new RebalanceLedger({ switches, events })
  const loop = new RebalanceLoop(
    {
      ...rooms,
      surroundings,
      relocations,
      isDraining,
      ledger: rebalancer,
      memory: rebalanceMemory,
      load: cpuLoad,
    },
    { peerId: mesh.peerId },
  )
  loop.start()
  starting.defer(() => loop.stop())
  return { ...rooms, drains, rebalancer, prefetch }
}
