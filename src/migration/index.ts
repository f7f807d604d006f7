/**
 * The act itself: one VM from one node to another. Knows channels, not
 * networks. `migration.proto` draws the messages, `handover.ts` who may run
 * the VM when, `capture.ts` what a round takes, `rounds.ts` when to stop.
 */
export { MIGRATION_ERRORS, MigrationError } from './errors.ts'
export type { ArrivingVm, DepartingVm, MovableVms } from './ports.ts'
export { HANDOVER_PROTOCOL, MIGRATE_PROTOCOL, PAGES_PROTOCOL } from './protocol.ts'
export { type MigrationComponents, type MigrationEvent, MigrationService } from './service.ts'
export type { MoveRequest } from './source.ts'
