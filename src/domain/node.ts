import type { NodeCoordinate } from './coordinate.ts'
import type { Accelerator, TemplateId } from './template.ts'
import type { PeerIdText, VmId, VmStateName } from './vm.ts'

/** What VMs and templates of a node take and what is left, in bytes. */
export interface NodeMemory {
  /** Null: all that the machine has. */
  limitBytes: number | null
  availableBytes: number
  committedBytes: number
  reservedBytes: number
}

/** Levels of the x86-64 psABI, least first: each has all instructions of those before it. */
export const CPU_LEVELS = ['x86-64-v1', 'x86-64-v2', 'x86-64-v3', 'x86-64-v4'] as const
export type CpuLevel = (typeof CPU_LEVELS)[number]

/** What a node can run. */
export interface NodeQemu {
  /** Such as `7.2.22`. */
  version: string
  /** Versioned q35 types, such as `pc-q35-7.2`. */
  machineTypes: readonly string[]
  accelerator: Accelerator
  /** As the CPU calls it, such as `GenuineIntel`. */
  cpuVendor: string
  cpuLevel: CpuLevel
}

export interface NodeVm {
  id: VmId
  name: string
  templateId: TemplateId
  state: VmStateName
  /** Counts changes of owner: of two nodes that claim a VM the one with the higher epoch has it. */
  epoch: number
}

/** What a node says of itself, so that others can choose it. */
export interface NodeFacts {
  /** Null on a node that runs no VMs. */
  memory: NodeMemory | null
  /** Average of the last minute's runnable processes, per CPU: above 1 they wait. */
  load: number
  cpus: number
  /** Null on a node without a usable QEMU. */
  qemu: NodeQemu | null
  templates: readonly TemplateId[]
  vms: readonly NodeVm[]
  /** It gives its VMs away and takes none, until a person says otherwise. */
  draining: boolean
  /** Null: it has none, or doesn't tell. */
  coordinate: NodeCoordinate | null
}

/** Of a node that has nothing to say; in a farewell nothing counts but its order. */
export const NO_FACTS: NodeFacts = {
  memory: null,
  load: 0,
  cpus: 1,
  qemu: null,
  templates: [],
  vms: [],
  draining: false,
  coordinate: null,
}

/** What the directory knows of a node. */
export interface NodeView {
  peerId: PeerIdText
  name: string
  /** Multiaddrs with the peer id. */
  addresses: readonly string[]
  facts: NodeFacts
  /** How many there are; `facts` has them all if they are listed. */
  templatesTotal: number
  vmsTotal: number
  /** False: announced in compact form, `facts.templates` is empty. */
  templatesListed: boolean
  /** False: `facts.vms` has only those that fitted. */
  vmsListed: boolean
  receivedAtMs: number
  /** Infinity for this node itself. */
  expiresAtMs: number
  self: boolean
}

export interface InventoryTemplate {
  id: TemplateId
  /** Labels that its node gave it. */
  names: readonly string[]
  memoryBytes: number
}

/** All that a node holds: what an announcement has no room for. */
export interface NodeInventory {
  templates: readonly InventoryTemplate[]
  vms: readonly NodeVm[]
}
