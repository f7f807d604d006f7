/**
 * One stock QEMU from outside. Knows no templates and no peers: it is told
 * which files to use and which pages to load.
 *
 * - what a binary can do on this machine, and whom it runs as: `probeQemu`, `openQemuUser`
 * - start it, drive it, find it again, end it: `QemuLaunch`, `QemuProcess`, `QmpClient`
 * - may a VM be moved or become a template, and what does its template hold beside RAM: `preflight`,
 *   `captureBlockers`, `readStateFile`, `deviceSections`, `deriveStateFile`
 * - write a VM into a QEMU that waits for one: `IncomingStream`, `encodePages`, `encodeZeroPages`, `advanceKvmclock`
 * - give one that waits the vmgenid of the VM that comes: `findGenerationId`, `writeGenerationId`
 * - read what a running QEMU writes when it migrates: `OutgoingMigration`, `listenForQemu`, `OutgoingReader`, `savedRunState`
 * - images and processes it may be given: `readDiskFormat`, `isRunning`
 */
export { deriveStateFile } from './derived-state.ts'
export { readDiskFormat } from './disk-image.ts'
export { QEMU_ERRORS, QemuError } from './errors.ts'
export { findGenerationId, type GenerationIdPlaces, writeGenerationId } from './generation-id.ts'
export { IncomingStream } from './incoming-stream.ts'
export { advanceKvmclock } from './kvmclock.ts'
export { type DiskFormat, MAX_ROOT_PORTS, type QemuLaunch, qemuArguments } from './launch.ts'
export { OutgoingMigration } from './outgoing-migration.ts'
export { OutgoingReader, savedRunState } from './outgoing-stream.ts'
export { captureBlockers, isGuestWritable, isMovable, preflight } from './preflight.ts'
export { type ProbeOptions, probeQemu, type QemuBinary } from './probe.ts'
export { QemuProcess } from './process.ts'
export { isRunning, readProcessIdentity } from './process-identity.ts'
export { QmpClient } from './qmp.ts'
export type { QmpCommands, QmpEvent } from './qmp-commands.ts'
export { readLogTail } from './run-dir.ts'
export {
  deviceSections,
  readStateFile,
  type StateBlock,
  type StateFile,
  type StatePage,
} from './state-file.ts'
export { listenForQemu } from './state-transfer.ts'
export { encodePages, encodeZeroPages, RAM_BLOCK } from './stream-format.ts'
export type { StreamRecord } from './stream-records.ts'
export { openQemuUser, type QemuUser } from './user.ts'
