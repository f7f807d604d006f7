import { statSync } from 'node:fs'
import { coolDownAt } from '../../domain/cool-down.ts'
import type { NodeView } from '../../domain/node.ts'
import { type PeerIdText, type VmId, type VmRecord, vmStateName } from '../../domain/vm.ts'
import { type Mesh, meshNowMs } from '../../mesh/index.ts'
import type { CandidateNode, LatencySample, VmSituation } from '../../placement/index.ts'
import type { TemplateStore } from '../../template/index.ts'
import { CLONE_HEADROOM_BYTES } from '../../vm/index.ts'
import type { Hypervisor } from '../parts.ts'
import { candidateNode, type MachineNeeds } from './candidates.ts'
import { MemoryGrowth } from './memory-growth.ts'
import { PrivateMemory } from './private-memory.ts'
import { type PromisedMemory, Promises } from './promises.ts'

export interface SurroundingsComponents extends Pick<Hypervisor, 'binary' | 'vms'> {
  mesh: Pick<Mesh, 'directory' | 'announcersOf'>
  templates: Pick<TemplateStore, 'get' | 'files'>
  /** Of a VM's clients, oldest first. */
  latencySamples: (vm: VmId) => readonly LatencySample[]
  /** To a peer; null: it was never measured. */
  bandwidthBytesPerSecond: (peer: PeerIdText) => number | null
}

/** This node's VMs and the other nodes, as placement sees them. */
export class Surroundings {
  readonly #components: SurroundingsComponents
  /** What is on its way to the others. */
  readonly promises = new Promises()
  readonly #growth = new MemoryGrowth()
  readonly #privateMemory: PrivateMemory

  constructor(components: SurroundingsComponents) {
    this.#components = components
    this.#privateMemory = new PrivateMemory({
      read: (id) => components.vms.guestPrivateBytes(id),
      now: meshNowMs,
    })
  }

  /** @throws TemplateError TEMPLATE_NOT_FOUND, TEMPLATE_DAMAGED */
  machine({ spec: { templateId } }: VmRecord): MachineNeeds {
    const { templates, binary } = this.#components
    const { accelerator, machineType } = templates.get(templateId).manifest.machine
    return { templateId, accelerator, machineType, qemuVersion: binary.version }
  }

  /** Sees what guests that may be moved have for themselves, for `vm` to tell; of others it tells what their QEMUs have. See PrivateMemory.look. */
  async lookAtMemory(records: readonly VmRecord[], options: { maxAgeMs?: number } = {}): Promise<void> {
    const movable = records.filter(({ spec, state }) => spec.auto && state.kind === 'running')
    await this.#privateMemory.look(
      movable.map(({ spec }) => spec.id),
      options,
    )
  }

  /** @throws TemplateError TEMPLATE_NOT_FOUND, TEMPLATE_DAMAGED; VmError VM_NOT_FOUND */
  vm(record: VmRecord): VmSituation {
    const { vms, templates, latencySamples } = this.#components
    const { id, name, templateId, auto, hasDisk } = record.spec
    const hasMoved = record.coolDown.previousNode !== null
    const ownBytes = vms.ownMemoryBytes(id)
    return {
      id,
      name,
      templateId,
      // Sparse: what is allocated counts, in blocks of 512 bytes (stat(2)).
      templateBytes: statSync(templates.files(templateId).ram).blocks * 512,
      // A disk is on this node only.
      mode: auto && !hasDisk ? 'auto' : 'pinned',
      state: vmStateName(record.state),
      // A record's age is that of the VM's stay here. One that has moved is no longer young, and has its cool-down.
      ageMs: hasMoved ? Number.POSITIVE_INFINITY : Math.max(0, Date.now() - record.createdAtMs),
      privateBytes: this.#privateMemory.bytes(id) ?? ownBytes,
      dirtyBytesPerSecond: this.#growth.bytesPerSecond(id, ownBytes, meshNowMs()),
      headroomBytes: CLONE_HEADROOM_BYTES,
      samples: latencySamples(id),
      coolDown: coolDownAt(record.coolDown, Date.now()),
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
    return this.promises.to(peerId, { saidAtMs: receivedAtMs, nowMs: meshNowMs() })
  }
}
