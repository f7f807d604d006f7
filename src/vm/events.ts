import type { TemplateId } from '../domain/template.ts'
import type { MigrationId, VmId } from '../domain/vm.ts'

/** What happened to a VM of this node, or to a QEMU that waits for one; told after it is true. */
export type VmEvent = OwnVmEvent | PreparedEvent

export type OwnVmEvent = { id: VmId; name: string } & (
  | {
      kind:
        | 'vm-started'
        | 'vm-adopted'
        | 'vm-paused'
        | 'vm-resumed'
        | 'vm-reset'
        | 'vm-changed'
        | 'vm-removed'
    }
  /** Ended: by its user, by itself, or while no agent watched. */
  | { kind: 'vm-stopped'; reason: string }
  /** Its QEMU lives but doesn't answer. */
  | { kind: 'vm-unreachable'; reason: string }
  /** The disk refuses its record: it is as it should be, and written down as soon as that can be. */
  | { kind: 'vm-record-not-written'; code: string; reason: string }
  | { kind: 'vm-record-written' }
  | { kind: 'vm-departing' | 'vm-stayed' | 'vm-left'; migrationId: MigrationId }
  | { kind: 'vm-arrived'; migrationId: MigrationId; epoch: number }
)

/** Of the QEMUs that `--prepare` keeps ready. */
export type PreparedEvent =
  | { kind: 'qemu-prepared'; templateId: TemplateId; pid: number }
  | { kind: 'qemu-not-prepared'; templateId: TemplateId; code: string; reason: string }

export type VmEventListener = (event: VmEvent) => void
