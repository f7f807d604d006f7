/**
 * The VMs of one node: records of them, their QEMUs, and every change of
 * either. Moves borrow VMs from here (`depart`, `reserve`); who owns a VM is
 * decided in the migration room and written down here.
 */

export { CLONE_HEADROOM_BYTES, type MemoryBudget } from './admission.ts'
export type { ArrivingVm } from './arriving.ts'
export type { DepartingVm, MovableVm } from './departing.ts'
export { VM_ERRORS, VmError } from './errors.ts'
// What happens, and what can go wrong.
export type { VmEvent, VmEventListener } from './events.ts'
export type { NicRequest } from './nics.ts'
export { hostAvailableBytes } from './node-memory.ts'
export type { Database, DatabaseWrite } from './records.ts'
export { stopReason } from './refusals.ts'
// Moves: a VM on its way out, a VM on its way in.
export type { ReserveRequest } from './reserve.ts'
export type { HerdPlace } from './roster.ts'
export type { RunRequest } from './run.ts'
// A running VM becomes a template.
export type { SealOptions, SealResult, SealStep } from './seal.ts'
// The room itself.
export { type GuestLook, VmService, type VmServiceComponents, type VmServiceInit } from './service.ts'
export type { VmView } from './view.ts'
