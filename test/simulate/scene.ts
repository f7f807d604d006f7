import type { RoundTripTables } from '../bench/round-trips.ts'

/**
 * What stands still in a simulation: which hosts are edge nodes, which VMs there
 * are and where their users sit. Latency moves below them, slice by slice.
 */

const MIB = 1024 ** 2
/** A slice of the Seattle data; how long one lasts isn't stated in it. */
export const SLICE_MS = 300_000
/** Of the rebalancer; a slice has a whole number of them. */
export const ROUND_MS = 10_000
export const ROUNDS_PER_SLICE = SLICE_MS / ROUND_MS
/** An uplink of 10 Mbit/s, at each node. */
export const UPLINK_BYTES_PER_SECOND = 1_250_000
export const TEMPLATE_BYTES = 250 * MIB
export const NODE_BYTES = 4096 * MIB
export const HEADROOM_BYTES = 64 * MIB
export const TEMPLATES = 24
/** Of all nodes, those that hold a template at the begin. */
const HELD_SHARE = 0.5
/** What a node's store has room for: 4 GiB, as its memory. */
export const STORED_TEMPLATES = 16
const [MIN_PRIVATE_BYTES, MAX_PRIVATE_BYTES] = [2 * MIB, 30 * MIB]
const MIN_USERS = 3
export const MAX_USERS = 12
const MAX_DIRTY_BYTES_PER_SECOND = 100_000

export interface SceneVm {
  index: number
  template: number
  privateBytes: number
  dirtyBytesPerSecond: number
  /** Hosts of the data, one for each user. */
  users: readonly number[]
  /** The node that it starts on, which holds its template. */
  startNode: number
}

export interface Scene {
  /** Simulated slices, each a slice of the data. */
  slices: readonly number[]
  /** Node index → host of the data. */
  nodes: readonly number[]
  vms: readonly SceneVm[]
  /** Template → nodes that hold it at the begin. */
  holders: readonly (readonly number[])[]
  /** `--template-limit` of each node, in templates: beyond it the least useful that no VM there needs is removed. */
  storedTemplates: number
  roundTrips: RoundTripTables
  /** What users of a VM have from a node, on average, in the slice of that index. */
  latencyMs(slice: number, vm: number, node: number): number
}

export interface SceneInit {
  roundTrips: RoundTripTables
  slices: readonly number[]
  nodes: number
  vmsPerNode: number
  storedTemplates?: number
  random: () => number
}

/** Users sit on hosts that are no node, where there are such. */
export function makeScene({
  roundTrips,
  slices,
  nodes,
  vmsPerNode,
  storedTemplates = STORED_TEMPLATES,
  random,
}: SceneInit): Scene {
  const below = (end: number) => Math.floor(random() * end)
  const hosts = shuffled(roundTrips.hosts, random)
  const places = Array.from({ length: nodes }, (_, node) => hosts[node % hosts.length]!)
  const others = hosts.slice(nodes)
  const seats = others.length > 0 ? others : hosts
  const holders = Array.from({ length: TEMPLATES }, () =>
    shuffled(nodes, random).slice(0, Math.ceil(nodes * HELD_SHARE)),
  )
  const vms = Array.from({ length: nodes * vmsPerNode }, (_, index): SceneVm => {
    const template = below(TEMPLATES)
    const held = holders[template]!
    return {
      index,
      template,
      privateBytes: MIN_PRIVATE_BYTES + below(MAX_PRIVATE_BYTES - MIN_PRIVATE_BYTES),
      dirtyBytesPerSecond: below(MAX_DIRTY_BYTES_PER_SECOND),
      users: Array.from(
        { length: MIN_USERS + below(MAX_USERS - MIN_USERS + 1) },
        () => seats[below(seats.length)]!,
      ),
      startNode: held[below(held.length)]!,
    }
  })
  const known = new Map<number, Float64Array>()
  const latencyMs = (slice: number, vm: number, node: number) => {
    const key = slice * vms.length + vm
    let row = known.get(key)
    if (row === undefined) {
      row = new Float64Array(nodes)
      known.set(key, row)
    }
    // 0: not summed up yet.
    if (row[node] === 0) {
      const { users } = vms[vm]!
      let sumMs = 0
      for (const user of users) sumMs += roundTrips.actualMs(slices[slice]!, places[node]!, user)
      row[node] = sumMs / users.length
    }
    return row[node]!
  }
  return { slices, nodes: places, vms, holders, storedTemplates, roundTrips, latencyMs }
}

function shuffled(count: number, random: () => number): number[] {
  const order = Array.from({ length: count }, (_, index) => index)
  for (let last = count - 1; last > 0; last--) {
    const other = Math.floor(random() * (last + 1))
    ;[order[last], order[other]] = [order[other]!, order[last]!]
  }
  return order
}
