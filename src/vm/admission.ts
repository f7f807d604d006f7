import { PAGE_BYTES } from '../domain/page.ts'
import { VmError } from './errors.ts'

const MIB = 1024 ** 2

/**
 * Whether a node has room for more VMs. Pure: measured numbers in, a verdict out.
 *
 *     limit, or all of the machine
 *     |------------- committed -------------|---- reserved ----|---- available ----|
 *      templates in use,   own memory         runs and arrivals
 *      once each           of each VM         in progress, herds
 *
 * Available is never more than what the machine really has left.
 */

/**
 * What a VM takes beside the pages that it brings: its QEMU, and what the guest
 * writes in its first minutes. Measured with QEMU 7.2, TCG, a 256 MiB guest,
 * own memory (node-memory.ts): 32 MiB when the state is loaded, 37 MiB after
 * 5 s idle (214 private pages), 56 MiB once a NIC was plugged in and configured
 * (682 private pages; the rest is translated code, which KVM doesn't have).
 * A guest may grow on, up to its full size: `--memory-limit` is there to keep
 * a margin for that.
 */
export const CLONE_HEADROOM_BYTES = 64 * MIB

/** Measured just now, in bytes. */
export interface MemoryUse {
  limitBytes: number | null
  /** What the machine can still give without swapping. */
  hostAvailableBytes: number
  /** Own memory of each VM: its private pages and its QEMU. */
  vmBytes: readonly number[]
  /** RAM files of the templates in use, each once. */
  templateBytes: readonly number[]
  /** Promised to runs and arrivals in progress, and to herds. */
  reservedBytes: readonly number[]
}

export interface MemoryBudget {
  limitBytes: number | null
  committedBytes: number
  reservedBytes: number
  availableBytes: number
}

/**
 * Sums up. What an arrival's QEMU has taken already counts as a VM's, and the
 * rest of its promise as reserved: the machine has given the one and owes the other.
 */
export function memoryBudget(use: MemoryUse): MemoryBudget {
  const committedBytes = sum(use.vmBytes) + sum(use.templateBytes)
  const reservedBytes = sum(use.reservedBytes)
  const limitLeftBytes = use.limitBytes === null ? Number.POSITIVE_INFINITY : use.limitBytes - committedBytes
  const availableBytes = Math.max(0, Math.min(limitLeftBytes, use.hostAvailableBytes) - reservedBytes)
  return { limitBytes: use.limitBytes, committedBytes, reservedBytes, availableBytes }
}

/**
 * What one more VM will have for itself.
 *
 * @param privatePages - pages that it brings: 0 for a new clone
 */
export function ownBytes(privatePages: number): number {
  return privatePages * PAGE_BYTES + CLONE_HEADROOM_BYTES
}

/** @throws VmError NOT_ENOUGH_MEMORY (details: neededBytes, availableBytes, missingBytes, and the budget) */
export function admit(budget: MemoryBudget, neededBytes: number): void {
  if (neededBytes > budget.availableBytes) throw notEnough(budget, neededBytes)
}

/** What an arrival has of this node's memory just now, and what was promised to it. */
export interface ArrivalUse {
  /** Own memory of the QEMU that it arrives in; 0 before there is one. */
  takenBytes: number
  /** Admitted when it was offered: the pages that it brings, and head-room. */
  promisedBytes: number
}

/**
 * Whether an arrival still fits, with what it really takes. Two bounds:
 *
 *     limit     |- templates, other VMs -|- reserved for others -|- taken by the arrival -|
 *     machine   |- available, and taken already by the arrival ---------------------------|
 *               |- reserved for others -|- promised, or taken where that is more ---------|
 *
 * A guest that grew beyond its promise while it was moved is let through as
 * far as there is room. One that fills what was promised to it to the last byte
 * is never refused, unless others have grown meanwhile.
 *
 * @param use - of this node without the arrival: neither its QEMU nor its promise counts in it
 * @throws VmError NOT_ENOUGH_MEMORY, as `admit`
 */
export function requireRoom(use: MemoryUse, { takenBytes, promisedBytes }: ArrivalUse): void {
  const { limitBytes, committedBytes, reservedBytes } = memoryBudget(use)
  const limitRoomBytes =
    limitBytes === null ? Number.POSITIVE_INFINITY : limitBytes - committedBytes - reservedBytes
  const hostRoomBytes = use.hostAvailableBytes + takenBytes - reservedBytes
  const bounds = [
    { neededBytes: takenBytes, roomBytes: limitRoomBytes },
    { neededBytes: Math.max(takenBytes, promisedBytes), roomBytes: hostRoomBytes },
  ]
  for (const { neededBytes, roomBytes } of bounds) {
    if (neededBytes <= roomBytes) continue
    const availableBytes = Math.max(0, roomBytes)
    throw notEnough({ limitBytes, committedBytes, reservedBytes, availableBytes }, neededBytes)
  }
}

function notEnough(budget: MemoryBudget, neededBytes: number): VmError {
  const { limitBytes, availableBytes } = budget
  const missingBytes = neededBytes - availableBytes
  const limit = limitBytes === null ? '' : ` of a limit of ${mebibytes(limitBytes)}`
  return new VmError(
    'NOT_ENOUGH_MEMORY',
    `not enough memory: ${mebibytes(neededBytes)} needed, ${Math.floor(availableBytes / MIB)} MiB available${limit}, ` +
      `${mebibytes(missingBytes)} missing: stop or move a VM, or raise --memory-limit`,
    { details: { neededBytes, missingBytes, ...budget } },
  )
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, bytes) => total + bytes, 0)
}

/** Rounded up: a page that is missing is not "0 MiB missing". */
function mebibytes(bytes: number): string {
  return `${Math.ceil(bytes / MIB)} MiB`
}
