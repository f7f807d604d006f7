/**
 * The act itself: VMs from one node to another. Knows channels, not
 * networks. `migration.proto` draws the messages, `handover.ts` who may run
 * the VM when, `capture.ts` what a round takes, `rounds.ts` when to stop,
 * `herd.ts` what VMs of one command share.
 */
export { loadsStateOf } from './admission.ts'
export { MIGRATION_ERRORS, MigrationError } from './errors.ts'
export { Pace } from './pace.ts'
export type { ArrivingVm, DepartingVm, MovableVm, MovableVms, Signatures } from './ports.ts'
export { HANDOVER_PROTOCOL, HERD_PROTOCOL, MIGRATE_PROTOCOL, PAGES_PROTOCOL } from './protocol.ts'
export {
  type HerdRequest,
  type MigrationComponents,
  type MigrationEvent,
  MigrationService,
  type MoveStart,
} from './service.ts'
