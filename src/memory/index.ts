/**
 * Guest memory from outside QEMU: where it is mapped, which pages are the
 * VM's own, which changed, and what they hold. Everything here reads or
 * freezes; nothing writes to a guest.
 */
export type { DirtyTracker } from './dirty-tracker.ts'
export { isMemoryClosed, MEMORY_ERRORS, MemoryError } from './errors.ts'
export { Freeze } from './freeze.ts'
export { type GuestLocation, GuestMemory } from './guest-memory.ts'
export { hashTracker } from './hash-tracker.ts'
export { type PagemapScan, rehearseScan, type ScannedMemory } from './pagemap.ts'
export { mostPrivatePages } from './private-pages.ts'
export { probeSoftDirty, softDirtyTracker } from './soft-dirty.ts'
export { THROTTLE_PERIOD_MS, Throttle } from './throttle.ts'
