import type { NodeQemu, NodeView } from '../../domain/node.ts'
import type { TemplateId } from '../../domain/template.ts'
import { loadsStateOf } from '../../migration/index.ts'

/** A template that VMs of other nodes run from. */
export interface Demand {
  id: TemplateId
  /** VMs that run from it, as announced. */
  vms: number
}

/**
 * Templates that VMs may come with, those of most VMs first. Of nodes with the
 * same accelerator, and no newer QEMU, only: what they run is sure to run here.
 *
 * @param nodes - of the mesh; this one's VMs have their templates here
 * @param qemu - of this node
 */
export function templatesInDemand(
  nodes: readonly NodeView[],
  qemu: Pick<NodeQemu, 'version' | 'accelerator'>,
): Demand[] {
  const vms = new Map<TemplateId, number>()
  for (const { self, facts } of nodes) {
    const theirs = facts.qemu
    if (self || theirs?.accelerator !== qemu.accelerator) continue
    if (!loadsStateOf(qemu.version, theirs.version)) continue
    for (const { templateId, state } of facts.vms) {
      if (state !== 'stopped') vms.set(templateId, (vms.get(templateId) ?? 0) + 1)
    }
  }
  return [...vms].map(([id, count]) => ({ id, vms: count })).toSorted((a, b) => b.vms - a.vms)
}

/** Whether a VM is on its way from a node: its link is needed. */
export function isSending({ facts }: NodeView): boolean {
  return facts.vms.some(({ state }) => state === 'departing')
}

export interface Allowance {
  /** Per hour; 0: nothing. */
  limitBytes: number
  /** In the last hour. */
  spentBytes: number
  /** Null where the disk can't be asked. */
  diskAvailableBytes: number | null
  /** What templates here may take; null: no limit. */
  templateLimitBytes: number | null
  /** What they take. */
  templateBytes: number
}

/** Of the free disk, one template that nobody has asked for takes at most so much. */
const MAX_DISK_SHARE = 0.25
/** Beyond this share of what templates may take, only those come that somebody wants: none has to go for a guess. */
const MAX_LIMIT_SHARE = 0.5

/** How large a template may be, in bytes on disk, that is brought here before anybody needs it. */
export function prefetchableBytes(allowance: Allowance): number {
  const { limitBytes, spentBytes, diskAvailableBytes, templateLimitBytes, templateBytes } = allowance
  const limitLeftBytes =
    templateLimitBytes === null
      ? Number.POSITIVE_INFINITY
      : templateLimitBytes * MAX_LIMIT_SHARE - templateBytes
  return Math.max(
    0,
    Math.min(limitBytes - spentBytes, (diskAvailableBytes ?? 0) * MAX_DISK_SHARE, limitLeftBytes),
  )
}
