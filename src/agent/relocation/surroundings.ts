import { steadyNowMs } from '../../domain/clock.ts'
import { coolDownAt } from '../../domain/cool-down.ts'
import type { NodeView } from '../../domain/node.ts'
import { type PeerIdText, type VmRecord, type VmSpec, vmStateName } from '../../domain/vm.ts'
import type { Mesh } from '../../mesh/index.ts'
import type { CandidateNode, LatencySample, VmSituation } from '../../placement/index.ts'
import type { TemplateStore } from '../../template/index.ts'
import { CLONE_HEADROOM_BYTES } from '../../vm/index.ts'
import type { Hypervisor } from '../parts.ts'
import { candidateNode, type MachineNeeds } from './candidates.ts'
import { GuestLooks } from './guest-looks.ts'
import { type PromisedMemory, Promises } from './promises.ts'

export interface SurroundingsComponents extends Pick<Hypervisor, 'binary' | 'vms'> {
  mesh: Pick<Mesh, 'directory' | 'announcersOf'>
  templates: Pick<TemplateStore, 'get' | 'ramBytes'>
  /** Of a VM's clients, oldest first. */
  latencySamples: (vm: Pick<VmSpec, 'id' | 'clients'>) => readonly LatencySample[]
  /** To a peer; null: it was never measured. */
  bandwidthBytesPerSecond: (peer: PeerIdText) => number | null
}

/** This node's VMs and the other nodes, as placement sees them. */
export class Surroundings {
  readonly #components: SurroundingsComponents
  /** What is on its way to the others. */
  readonly promises = new Promises()
  readonly #guestLooks: GuestLooks

  constructor(components: SurroundingsComponents) {
    this.#components = components
    this.#guestLooks = new GuestLooks({ look: (id) => components.vms.lookAtGuest(id), now: steadyNowMs })
  }

  /** @throws TemplateError TEMPLATE_NOT_FOUND, TEMPLATE_DAMAGED */
  machine({ spec: { templateId } }: VmRecord): MachineNeeds {
    const { templates, binary } = this.#components
    const { accelerator, machineType } = templates.get(templateId).manifest.machine
    return { templateId, accelerator, machineType, qemuVersion: binary.version }
  }

  /** Sees what guests that may be moved have for themselves, for `vm` to tell; of others it tells what their QEMUs have. See GuestLooks.look. */
  async lookAtMemory(records: readonly VmRecord[], options: { maxAgeMs?: number } = {}): Promise<void> {
    const movable = records.filter(({ spec, state }) => spec.auto && state.kind === 'running')
    await this.#guestLooks.look(
      movable.map(({ spec }) => spec.id),
      options,
    )
  }

  /** @throws TemplateError TEMPLATE_NOT_FOUND, TEMPLATE_DAMAGED; VmError VM_NOT_FOUND */
  vm(record: VmRecord): VmSituation {
    const { vms, templates, latencySamples } = this.#components
    const { id, name, templateId, auto, hasDisk } = record.spec
    const look = this.#guestLooks.get(id)
    const hasMoved = record.coolDown.previousNode !== null
    return {
      id,
      name,
      templateId,
      templateBytes: templates.ramBytes(templateId),
      // A disk is on this node only.
      mode: auto && !hasDisk ? 'auto' : 'pinned',
      state: vmStateName(record.state),
      // A record's age is that of the VM's stay here. One that has moved is no longer young, and has its cool-down.
      ageMs: hasMoved ? Number.POSITIVE_INFINITY : Math.max(0, steadyNowMs() - record.createdAtMs),
      privateBytes: look?.privateBytes ?? vms.ownMemoryBytes(id),
      dirtyBytesPerSecond: look?.dirtyBytesPerSecond ?? 0,
      headroomBytes: CLONE_HEADROOM_BYTES,
      samples: latencySamples(record.spec),
      coolDown: coolDownAt(record.coolDown, steadyNowMs()),
    }
  }

  /**
   * The other nodes.
   *
   * @param machines - of the VMs that may go there
   */
  candidates(machines: readonly MachineNeeds[]): CandidateNode[] {
    const { mesh, bandwidthBytesPerSecond } = this.#components
    const wanted = new Set(machines.map(({ templateId }) => templateId))
    const holders = new Map([...wanted].map((id) => [id, new Set(mesh.announcersOf(id))]))
    return this.nodes().map((node) => {
      const { peerId } = node
      const { bytes, onTheirWay } = this.#promisedTo(node)
      return candidateNode(node, machines, {
        holds: (id) => holders.get(id)?.has(peerId) ?? false,
        bandwidthBytesPerSecond: bandwidthBytesPerSecond(peerId),
        movesIn: onTheirWay,
        promisedBytes: bytes,
      })
    })
  }

  /** As they announced themselves. */
  nodes(): NodeView[] {
    return this.#components.mesh.directory().filter(({ self }) => !self)
  }

  #promisedTo({ peerId, receivedAtMs }: NodeView): PromisedMemory {
    return this.promises.to(peerId, { saidAtMs: receivedAtMs, nowMs: steadyNowMs() })
  }
}
