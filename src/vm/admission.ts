import { PAGE_BYTES } from '../domain/page.ts'
import { VmError } from './errors.ts'

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
export const CLONE_HEADROOM_BYTES = 64 * 1024 * 1024

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
 * Sums up. A reservation counts in full until its VM is this node's, although
 * the machine may have given a part of it already: too much is held back
 * rather than too little.
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

/** @throws VmError NOT_ENOUGH_MEMORY { neededBytes, availableBytes } */
export function admit(budget: MemoryBudget, neededBytes: number): void {
  const { limitBytes, availableBytes } = budget
  if (neededBytes <= availableBytes) return
  const limit = limitBytes === null ? '' : ` of a limit of ${mebibytes(limitBytes)}`
  throw new VmError(
    'NOT_ENOUGH_MEMORY',
    `not enough memory: ${mebibytes(neededBytes)} needed, ${mebibytes(availableBytes)} available${limit}: ` +
      'stop or move a VM, or raise --memory-limit',
    { details: { neededBytes, ...budget } },
  )
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, bytes) => total + bytes, 0)
}

function mebibytes(bytes: number): string {
  return `${Math.round(bytes / 1024 ** 2)} MiB`
}
