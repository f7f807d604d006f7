import type { VmClient } from './client.ts'
import type { KeptCoolDown } from './cool-down.ts'
import type { TemplateId } from './template.ts'

/** Random UUID: names a VM for life, across nodes. */
export type VmId = string
/** Random UUID: names one attempt to move one VM. */
export type MigrationId = string
/** libp2p peer id in its usual text form. */
export type PeerIdText = string
export const PEER_ID_PATTERN = /^[1-9A-HJ-NP-Za-km-z]{32,64}$/

/** A NIC plugged into a spare root port after cloning. */
export interface NicSpec {
  /** `user`: QEMU's own NAT, nothing to prepare on the host. */
  kind: 'user'
  /** Index of the spare root port it sits in: the same on both sides of a move. */
  slot: number
  /** Six hex pairs with colons, lower case. */
  mac: string
  /** Ports of the node that lead to ports of the guest. */
  forwards: readonly PortForward[]
}

export interface PortForward {
  protocol: 'tcp' | 'udp'
  hostPort: number
  guestPort: number
}

/** What a VM is, wherever it runs. Travels in the Offer of a move. */
export interface VmSpec {
  id: VmId
  name: string
  templateId: TemplateId
  /** vmgenid, a UUID: fixed for life, or the guest believes after a move that it was cloned. */
  generationId: string
  nics: readonly NicSpec[]
  /** Whether the VM has a qcow2 overlay of its own over the template's disk. */
  hasDisk: boolean
  /** At most MAX_CLIENTS; none: whoever is connected to its forwarded ports. */
  clients: readonly VmClient[]
  /** Whether drover may move it to where its clients are near. */
  auto: boolean
}

/** What a VM's user may change while it runs; what is left out stays. */
export type VmWishes = Partial<Pick<VmSpec, 'clients' | 'auto'>>

/** The QEMU that runs a VM: pids are reused, so a start time goes with it. */
export interface ProcessIdentity {
  pid: number
  /** Field 22 of /proc/PID/stat, clock ticks since boot. */
  startTimeTicks: number
}

/** A move whose Grant may have left: the destination may own the VM, or will never. */
export interface Doubt {
  migrationId: MigrationId
  destination: PeerIdText
  /** The destination's name for the arrival that the Grant was for: a random UUID. */
  place: string
  /** SHA-256 over the pages that were sent, in hex. */
  digest: string
}

/**
 * What this node knows of a VM that it owns or owned last.
 *
 * - `running`: ours; the guest runs or is paused by its user (`paused`).
 * - `departing`: ours still; a move is under way.
 * - `in-doubt`: the Grant may have left; paused, never resumed by itself.
 * - `stopped`: without a process; ours, unless there was a doubt when its QEMU ended.
 */
export type VmState =
  | { kind: 'running'; process: ProcessIdentity; paused: boolean }
  | { kind: 'departing'; process: ProcessIdentity; paused: boolean; migrationId: MigrationId }
  | ({ kind: 'in-doubt'; process: ProcessIdentity; paused: boolean } & Doubt)
  | { kind: 'stopped'; reason: string; doubt: Doubt | null }

/** A VM's state as people and other nodes are told it. */
export const VM_STATE_NAMES = ['running', 'paused', 'departing', 'in-doubt', 'stopped'] as const
export type VmStateName = (typeof VM_STATE_NAMES)[number]

export function vmStateName(state: VmState): VmStateName {
  return state.kind === 'running' && state.paused ? 'paused' : state.kind
}

/** The doubt of a VM, if there is one: only the destination, or a person, ends it. */
export function doubtOf(state: VmState): Doubt | null {
  if (state.kind === 'in-doubt') {
    const { migrationId, destination, place, digest } = state
    return { migrationId, destination, place, digest }
  }
  return state.kind === 'stopped' ? state.doubt : null
}

export interface VmRecord {
  spec: VmSpec
  /** Counts changes of owner; the Grant of a move carries epoch + 1. */
  epoch: number
  state: VmState
  /** Directory of its QEMU's sockets, among those of this node: the VM's id, or a new UUID for each arrival. */
  runDirName: string
  createdAtMs: number
  coolDown: KeptCoolDown
}

/** How the pages of a guest stand, in pages. */
export interface PageCounts {
  guest: number
  /** Written since the clone started: this VM's own memory. */
  private: number
  /** Mapped from the template. */
  shared: number
  /** Never touched: neither memory nor mapping. */
  untouched: number
}
