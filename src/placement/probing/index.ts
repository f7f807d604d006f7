/**
 * What a VM's clients have from nodes, measured here and by nodes that are asked,
 * and where this node is. The part of the room that reaches the network and has clocks.
 *
 *     names → targets → prober here, ask → ProbeServer there → VmLatency → samples for the planner
 */
export { askProbes, type ProbeAnswer } from './ask.ts'
export {
  ClientProbes,
  type ClientProbesComponents,
  type ProbedVm,
  type ProbingNode,
} from './client-probes.ts'
export { HostNames } from './host-names.ts'
export { LearnedClients } from './learned-clients.ts'
export { OwnCoordinate, type PlacedPeer } from './own-coordinate.ts'
export { Prober } from './prober.ts'
export { PROBE_CHANNELS, PROBE_PROTOCOL } from './protocol.ts'
export { ProbeServer } from './serve.ts'
