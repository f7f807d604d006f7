import type { NodeView, NodeVm } from '../domain/node.ts'
import type { PeerIdText, VmId } from '../domain/vm.ts'

/** Long enough for somebody to look; who is gone for longer is known to be gone. */
const LOST_MS = 3600 * 1000
/** With 64 VMs each some MiB. */
const MAX_LOST_NODES = 256

/** A VM of a node that fell silent: it may run there or not. */
export interface LostVm {
  vm: NodeVm
  node: { peerId: PeerIdText; name: string }
  /** When the node was heard last. */
  sinceMs: number
}

/**
 * VMs that nobody has seen since their nodes fell silent. Nothing follows from
 * it but that people are told: a VM is started nowhere else, as it may run on.
 */
export class LostVms {
  /** In the order in which they fell silent. */
  readonly #nodes = new Map<PeerIdText, { view: NodeView; lostAtMs: number; vms: Map<VmId, NodeVm> }>()

  /**
   * A node fell silent.
   *
   * @returns VMs that ran there, as far as it had said
   */
  lose(view: NodeView, nowMs: number): NodeVm[] {
    const vms = view.facts.vms.filter(({ state }) => state !== 'stopped')
    if (vms.length === 0) return []
    this.#nodes.set(view.peerId, { view, lostAtMs: nowMs, vms: new Map(vms.map((vm) => [vm.id, vm])) })
    const [oldest] = this.#nodes.keys()
    if (this.#nodes.size > MAX_LOST_NODES) this.#nodes.delete(oldest!)
    return vms
  }

  /** A node is heard: what it says of itself counts, and a VM that it has in the same or a later epoch is found. */
  heard({ peerId, facts }: NodeView): void {
    this.#nodes.delete(peerId)
    for (const { vms } of this.#nodes.values()) {
      for (const { id, epoch } of facts.vms) {
        if ((vms.get(id)?.epoch ?? Number.POSITIVE_INFINITY) <= epoch) vms.delete(id)
      }
    }
  }

  /** A node said farewell, or was removed. */
  forget(peerId: PeerIdText): void {
    this.#nodes.delete(peerId)
  }

  expire(nowMs: number): void {
    for (const [peerId, { lostAtMs }] of this.#nodes) {
      if (lostAtMs + LOST_MS <= nowMs) this.#nodes.delete(peerId)
    }
  }

  list(): LostVm[] {
    return [...this.#nodes.values()].flatMap(({ view: { peerId, name, receivedAtMs }, vms }) =>
      [...vms.values()].map((vm) => ({ vm, node: { peerId, name }, sinceMs: receivedAtMs })),
    )
  }
}
