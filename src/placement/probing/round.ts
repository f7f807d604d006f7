import type { PeerIdText } from '../../domain/vm.ts'
import { MAX_PROBE_TARGETS, type ProbeTarget, targetKey } from '../../wire/probe-messages.ts'

/** Nodes that are asked in one round; a VM has MAX_SHORTLIST of them. */
const MAX_ASKED = 32

/** A VM whose clients could be probed in this round. */
export interface VmToProbe<Vm> {
  vm: Vm
  /** In the order of its clients; null: its name wasn't found. */
  targets: readonly (ProbeTarget | null)[]
  /** Nodes to ask. */
  ask: readonly PeerIdText[]
}

export interface Round<Vm> {
  vms: VmToProbe<Vm>[]
  /** What this node probes itself: each target once, MAX_PROBE_TARGETS at most. */
  own: ProbeTarget[]
  /** What others are asked for, each target once. */
  asked: Map<PeerIdText, ProbeTarget[]>
}

/**
 * What is probed in one round: VMs as long as there is room for all of each,
 * because half of a VM's clients say nothing. The first one always has room.
 *
 * @param waiting - those that waited longest first
 */
export function planProbes<Vm>(waiting: Iterable<VmToProbe<Vm>>): Round<Vm> {
  const vms: VmToProbe<Vm>[] = []
  const own = new Map<string, ProbeTarget>()
  const asked = new Map<PeerIdText, Map<string, ProbeTarget>>()
  for (const candidate of waiting) {
    const targets = candidate.targets.filter((target) => target !== null)
    const newTargets = new Set(targets.map(targetKey).filter((key) => !own.has(key)))
    const newPeers = candidate.ask.filter((peer) => !asked.has(peer))
    const hasRoom =
      own.size + newTargets.size <= MAX_PROBE_TARGETS && asked.size + newPeers.length <= MAX_ASKED
    if (!hasRoom) continue
    vms.push(candidate)
    for (const target of targets) {
      own.set(targetKey(target), target)
      for (const peer of candidate.ask) {
        asked.set(peer, (asked.get(peer) ?? new Map()).set(targetKey(target), target))
      }
    }
  }
  return {
    vms,
    own: [...own.values()],
    asked: new Map([...asked].map(([peer, targets]) => [peer, [...targets.values()]])),
  }
}
