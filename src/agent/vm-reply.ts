import { doubtOf, type VmRecord, vmStateName } from '../domain/vm.ts'
import { stopReason } from '../vm/index.ts'
import type { VmReply } from './api-schema.ts'
import type { CommandParts } from './parts.ts'

/** A VM of this node as its users see it. */
export function vmReply(
  { spec, state, epoch, createdAtMs }: VmRecord,
  { mesh, templates }: CommandParts,
): VmReply {
  const template = templates.has(spec.templateId) ? templates.get(spec.templateId) : null
  return {
    name: spec.name,
    id: spec.id,
    node: mesh.name,
    epoch,
    state: vmStateName(state),
    reason: state.kind === 'stopped' ? stopReason(state) : null,
    template: spec.templateId,
    templateNames: template?.names ?? [],
    memoryBytes: template?.manifest.machine.memoryBytes ?? null,
    createdAtMs,
    pid: state.kind === 'stopped' ? null : state.process.pid,
    nics: spec.nics,
    hasDisk: spec.hasDisk,
    clients: spec.clients,
    auto: spec.auto,
    generationId: spec.generationId,
    migrationId: state.kind === 'departing' ? state.migrationId : (doubtOf(state)?.migrationId ?? null),
  }
}
