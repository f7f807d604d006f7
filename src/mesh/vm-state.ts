import { VM_STATE_NAMES, type VmStateName } from '../domain/vm.ts'
import type { WireVmState } from '../wire/announcement-message.ts'

/** `in-doubt` → `VM_STATE_IN_DOUBT`: enum members share one scope in protobuf. */
export function toWireVmState(state: VmStateName): WireVmState {
  return `VM_STATE_${state.toUpperCase().replace('-', '_')}` as WireVmState
}

const NAMES = new Map(VM_STATE_NAMES.map((name) => [toWireVmState(name), name]))

export function fromWireVmState(state: WireVmState): VmStateName {
  return NAMES.get(state)!
}
