import { MAX_CLIENT_WEIGHT, MAX_CLIENTS, type VmClient } from '../../domain/client.ts'
import type { VmId } from '../../domain/vm.ts'
import { isHost, isLoopback } from './addresses.ts'
import { type Connection, readConnections } from './connections.ts'

/** Connections come and go with each request: the kernel is asked so often, and what was seen fades in minutes. */
const LOOK_INTERVAL_MS = 5_000
const HALVES_IN_MS = 60_000
/** Half of a connection, four minutes ago. */
const FORGOTTEN_BELOW = 1 / 32
/** Most clients listen nowhere: that they refuse is an answer, and one port serves as well as another. */
const PROBED_PORT = 443

/** A VM that nobody has named clients of. */
export interface ForwardingVm {
  id: VmId
  /** TCP ports of this node that lead to it. */
  hostPorts: readonly number[]
}

export interface LearnedClientsInit {
  connections?: () => Promise<readonly Connection[]>
  now?: () => number
}

interface Seen {
  /** Connections, halved each minute since. */
  score: number
  atMs: number
}

/** Who is connected to VMs: the clients of those whose user named none. */
export class LearnedClients {
  readonly #connections: () => Promise<readonly Connection[]>
  readonly #now: () => number
  /** By VM and address. */
  readonly #seen = new Map<VmId, Map<string, Seen>>()
  #lookedAtMs = Number.NEGATIVE_INFINITY

  constructor({ connections = readConnections, now = () => performance.now() }: LearnedClientsInit = {}) {
    this.#connections = connections
    this.#now = now
  }

  /** Looks at who is connected, if the last look was LOOK_INTERVAL_MS ago; VMs that aren't given are forgotten. */
  async look(vms: readonly ForwardingVm[]): Promise<void> {
    const nowMs = this.#now()
    const ids = new Set(vms.map(({ id }) => id))
    for (const id of this.#seen.keys()) if (!ids.has(id)) this.#seen.delete(id)
    if (!vms.some(({ hostPorts }) => hostPorts.length > 0) || nowMs < this.#lookedAtMs + LOOK_INTERVAL_MS)
      return
    this.#lookedAtMs = nowMs
    const connections = await this.#connections()
    for (const { id, hostPorts } of vms) {
      const ports = new Set(hostPorts)
      const addresses = connections
        .filter(({ localPort, remoteAddress }) => ports.has(localPort) && isElsewhere(remoteAddress))
        .map(({ remoteAddress }) => remoteAddress)
      this.#seen.set(id, mostRecent(merged(this.#seen.get(id), addresses, nowMs)))
    }
  }

  /** MAX_CLIENTS at most, those seen last; the weight is how many connections each has had lately. */
  of(id: VmId): VmClient[] {
    return [...(this.#seen.get(id) ?? [])].map(([host, { score }]) => {
      return { host, port: PROBED_PORT, weight: Math.min(Math.max(1, Math.round(score)), MAX_CLIENT_WEIGHT) }
    })
  }
}

/** What comes from this machine itself is no farther from anywhere else. */
function isElsewhere(address: string): boolean {
  return isHost(address) && !isLoopback(address)
}

function merged(
  before: ReadonlyMap<string, Seen> | undefined,
  addresses: readonly string[],
  nowMs: number,
): Map<string, Seen> {
  const counts = new Map<string, number>()
  for (const address of addresses) counts.set(address, (counts.get(address) ?? 0) + 1)
  const after = new Map<string, Seen>()
  for (const [address, { score, atMs }] of before ?? []) {
    const faded = score * 0.5 ** ((nowMs - atMs) / HALVES_IN_MS)
    if (faded >= FORGOTTEN_BELOW && !counts.has(address)) after.set(address, { score: faded, atMs: nowMs })
    else counts.set(address, Math.max(counts.get(address) ?? 0, faded))
  }
  // Behind those that are only remembered: the end of the map is what was seen last.
  for (const [address, score] of counts)
    if (score >= FORGOTTEN_BELOW) after.set(address, { score, atMs: nowMs })
  return after
}

function mostRecent(seen: ReadonlyMap<string, Seen>): Map<string, Seen> {
  return new Map([...seen].slice(-MAX_CLIENTS))
}
