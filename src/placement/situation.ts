import type { CoolDown } from '../domain/cool-down.ts'
import type { TemplateId } from '../domain/template.ts'
import type { PeerIdText, VmId, VmStateName } from '../domain/vm.ts'
import type { BackOffs } from './back-off.ts'
import type { LatencySample } from './latency.ts'

/** A VM of this node, as far as where it belongs depends on it. */
export interface VmSituation {
  id: VmId
  name: string
  templateId: TemplateId
  /** What a node without the template has to be sent, compressed as far as that is known. */
  templateBytes: number
  /** `pinned`: only people move it. */
  mode: 'auto' | 'pinned'
  state: VmStateName
  /** Since it was started here; Infinity for one that came from another node. */
  ageMs: number
  /** Its private pages. */
  privateBytes: number
  dirtyBytesPerSecond: number
  /** What a destination reserves for it to grow, beside its pages: CLONE_HEADROOM_BYTES of vm/admission.ts. */
  headroomBytes: number
  /** Oldest first; those of another owner don't come with the VM. */
  samples: readonly LatencySample[]
  /** As of now. */
  coolDown: CoolDown
}

/** A node that VMs could go to, as announced and measured. Nodes that aren't known to be alive are left out. */
export interface CandidateNode {
  peerId: PeerIdText
  name: string
  /** False while it is drained. */
  takesVms: boolean
  /** Those it holds, of the templates of this node's VMs. */
  templates: ReadonlySet<TemplateId>
  /** Templates of this node's VMs that its QEMU or accelerator can't run. */
  unrunnable: ReadonlySet<TemplateId>
  availableBytes: number
  /** Runnable processes per CPU, averaged over a minute. */
  load: number
  /** Of moves and fetches to it; null: never measured. */
  bandwidthBytesPerSecond: number | null
  /** VMs that are on their way there, as far as this node knows. */
  movesIn: number
}

/** This node, at the moment of a round. */
export interface OwnSituation {
  peerId: PeerIdText
  nowMs: number
  /** As a candidate's. */
  load: number
  /** VMs on their way from here. */
  movesOut: number
  /** When this node's rebalancer started its moves of the last hour. */
  startedAtMs: readonly number[]
  backOffs: BackOffs
}
