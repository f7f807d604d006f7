import type { NodeView } from '../../domain/node.ts'
import type { Accelerator, TemplateId } from '../../domain/template.ts'
import type { PeerIdText } from '../../domain/vm.ts'
import { loadsStateOf } from '../../migration/index.ts'
import type { CandidateNode } from '../../placement/index.ts'

/** What a VM's machine needs of the node that it goes to. */
export interface MachineNeeds {
  templateId: TemplateId
  accelerator: Accelerator
  machineType: string
  /** Of the QEMU that it runs in: its state is loaded by none that is older. */
  qemuVersion: string
}

/** Why a node can't have a VM, by what it says of itself: the codes that it would refuse with. */
export type Unfit = 'NODE_DRAINING' | 'QEMU_NOT_FOUND' | 'TEMPLATE_NOT_RUNNABLE' | 'QEMU_TOO_OLD'

/** @returns null when nothing but memory, which the node judges by itself, may speak against it */
export function unfit({ facts }: NodeView, needs: MachineNeeds): Unfit | null {
  const { qemu, draining } = facts
  if (draining) return 'NODE_DRAINING'
  if (qemu === null || facts.memory === null) return 'QEMU_NOT_FOUND'
  if (qemu.accelerator !== needs.accelerator || !qemu.machineTypes.includes(needs.machineType)) {
    return 'TEMPLATE_NOT_RUNNABLE'
  }
  return loadsStateOf(qemu.version, needs.qemuVersion) ? null : 'QEMU_TOO_OLD'
}

/** What of a node only this one knows. */
export interface Acquaintance {
  /** Templates that it has, as far as is known. */
  holds: (id: TemplateId) => boolean
  /** Null: never measured. */
  bandwidthBytesPerSecond: number | null
  /** VMs on their way there from here. */
  movesIn: number
  /** What they will take of the memory that it announced. */
  promisedBytes: number
}

/**
 * A node as placement sees it.
 *
 * @param machines - of the VMs that may go there
 */
export function candidateNode(
  node: NodeView,
  machines: readonly MachineNeeds[],
  { holds, promisedBytes, ...known }: Acquaintance,
): CandidateNode {
  const { facts, peerId, name } = node
  const templates = machines.map(({ templateId }) => templateId)
  const isUnrunnable = (needs: MachineNeeds) => {
    const why = unfit(node, needs)
    return why !== null && why !== 'NODE_DRAINING'
  }
  return {
    peerId,
    name,
    takesVms: !facts.draining,
    templates: new Set(templates.filter(holds)),
    unrunnable: new Set(machines.filter(isUnrunnable).map(({ templateId }) => templateId)),
    availableBytes: Math.max(0, (facts.memory?.availableBytes ?? 0) - promisedBytes),
    load: facts.load,
    ...known,
  }
}

/** For the error that names who can't have a VM. */
export const UNFIT_MEANINGS: Readonly<Record<Unfit, string>> = {
  NODE_DRAINING: 'it gives its own VMs away',
  QEMU_NOT_FOUND: 'it runs no VMs',
  TEMPLATE_NOT_RUNNABLE: "it lacks the VM's accelerator or machine type",
  QEMU_TOO_OLD: "its QEMU is older than the VM's",
}

/** Where a VM could go. */
export interface Destination {
  peerId: PeerIdText
  name: string
  /** That it will take there. */
  memoryBytes: number
  /** That must be sent: its pages, and its template where that is missing. */
  sendBytes: number
  /** By what the node announced, and what is on its way there. */
  hasRoom: boolean
}
