import {
  type CandidateNode,
  type LatencySample,
  NO_COOL_DOWN,
  type OwnSituation,
  type VmSituation,
} from '../../src/placement/index.ts'

export const MIB = 1024 ** 2
export const HERE = 'here'
export const NOW_MS = 1_000_000
export const SAMPLE_GAP_MS = 3_000

/** Twenty samples up to now, a minute, in which nothing changed. */
export function steadySamples(latencyMs: Record<string, number>, count = 20): LatencySample[] {
  return Array.from({ length: count }, (_, index) => ({
    atMs: NOW_MS - (count - 1 - index) * SAMPLE_GAP_MS,
    latencyMs: new Map(Object.entries(latencyMs)),
  }))
}

export function vmSituation(changes: Partial<VmSituation> = {}): VmSituation {
  return {
    id: 'vm',
    name: 'web-1',
    templateId: 'template',
    templateBytes: 250 * MIB,
    mode: 'auto',
    state: 'running',
    ageMs: 3_600_000,
    privateBytes: 10 * MIB,
    dirtyBytesPerSecond: 0,
    headroomBytes: 64 * MIB,
    samples: [],
    coolDown: NO_COOL_DOWN,
    ...changes,
  }
}

/** With the template, room, and a fast link. */
export function candidateNode(peerId: string, changes: Partial<CandidateNode> = {}): CandidateNode {
  return {
    peerId,
    name: `node ${peerId}`,
    takesVms: true,
    templates: new Set(['template']),
    unrunnable: new Set(),
    availableBytes: 4096 * MIB,
    load: 0,
    bandwidthBytesPerSecond: 12_500_000,
    movesIn: 0,
    ...changes,
  }
}

export function ownSituation(changes: Partial<OwnSituation> = {}): OwnSituation {
  return {
    peerId: HERE,
    nowMs: NOW_MS,
    load: 0,
    movesOut: 0,
    startedAtMs: [],
    backOffs: new Map(),
    ...changes,
  }
}

export function byPeerId(...nodes: CandidateNode[]): Map<string, CandidateNode> {
  return new Map(nodes.map((node) => [node.peerId, node]))
}
