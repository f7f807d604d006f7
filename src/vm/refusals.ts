import { doubtOf, type MigrationId, type VmRecord, type VmState } from '../domain/vm.ts'
import { type VM_ERRORS, VmError } from './errors.ts'

export type StateOf<Kind extends VmState['kind']> = Extract<VmState, { kind: Kind }>

/** An error about one VM: `what` goes on after its name. */
export function vmError(
  record: VmRecord,
  code: keyof typeof VM_ERRORS,
  what: string,
  init: { cause?: unknown } = {},
): VmError {
  const { id, name } = record.spec
  return new VmError(code, `VM '${name}' ${what}`, {
    details: { id, name, state: record.state.kind },
    ...init,
  })
}

/** @throws VmError VM_BUSY, VM_IN_DOUBT while a move has the VM; in doubt it can be with and without a QEMU */
export function requireNotMoving(record: VmRecord): StateOf<'running' | 'stopped'> {
  const { state } = record
  if (state.kind === 'departing') {
    const remedy = `wait for it, or \`drover migration cancel ${state.migrationId}\``
    throw vmError(record, 'VM_BUSY', `is being moved: ${remedy}`)
  }
  const doubt = doubtOf(state)
  if (state.kind === 'in-doubt' || doubt !== null) {
    const { migrationId, destination } = doubt!
    const remedy = `\`drover migration resolve ${migrationId}\` decides if that node is lost`
    throw vmError(
      record,
      'VM_IN_DOUBT',
      `may run at ${destination}, which is asked until it answers: ${remedy}`,
    )
  }
  return state
}

/** @throws VmError VM_STOPPED, VM_BUSY, VM_IN_DOUBT */
export function requireRunning(record: VmRecord): StateOf<'running'> {
  const state = requireNotMoving(record)
  if (state.kind === 'stopped') throw vmError(record, 'VM_STOPPED', `is stopped: ${state.reason}`)
  return state
}

/**
 * @param kinds - states that the move may be in
 * @throws VmError VM_NOT_DEPARTING
 */
export function requireMoving<Kind extends 'departing' | 'in-doubt'>(
  record: VmRecord,
  migrationId: MigrationId,
  kinds: readonly Kind[],
): StateOf<Kind> {
  const { state } = record
  const isOfMove = 'migrationId' in state && state.migrationId === migrationId
  if (isOfMove && (kinds as readonly string[]).includes(state.kind)) return state as StateOf<Kind>
  throw vmError(record, 'VM_NOT_DEPARTING', `is '${state.kind}', not in move ${migrationId}`)
}

/** Why a VM is stopped, for people: with the doubt, if there is one, that it may run elsewhere. */
export function stopReason({ reason, doubt }: StateOf<'stopped'>): string {
  if (doubt === null) return reason
  return `in doubt: it may run at ${doubt.destination} by move ${doubt.migrationId}; here, ${reason}`
}
