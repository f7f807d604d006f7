import type { VmId } from '../../domain/vm.ts'

/** A look reads the guest's page map, 3 ms for 512 MiB: not at each look of the rebalancer. */
const LOOK_AGAIN_MS = 10_000

export interface PrivateMemoryInit {
  /** What the guest has for itself, in bytes. */
  read: (id: VmId) => Promise<number>
  /** Any clock, in ms. */
  now: () => number
}

/**
 * What guests have for themselves, which is what a move has to send. Memory of
 * QEMU's own isn't in it: under TCG that is more than an idle clone has.
 */
export class PrivateMemory {
  readonly #read: PrivateMemoryInit['read']
  readonly #now: () => number
  #known = new Map<VmId, { bytes: number; atMs: number }>()

  constructor({ read, now }: PrivateMemoryInit) {
    this.#read = read
    this.#now = now
  }

  /**
   * Looks at those that were not looked at lately, one after the other; forgets all others. Never rejects.
   *
   * @param options.maxAgeMs - how old what is known may be
   */
  async look(ids: readonly VmId[], { maxAgeMs = LOOK_AGAIN_MS }: { maxAgeMs?: number } = {}): Promise<void> {
    const before = this.#known
    this.#known = new Map(ids.flatMap((id) => (before.has(id) ? [[id, before.get(id)!]] : [])))
    for (const id of ids) {
      const known = this.#known.get(id)
      if (known !== undefined && known.atMs + maxAgeMs > this.#now()) continue
      try {
        this.#known.set(id, { bytes: await this.#read(id), atMs: this.#now() })
      } catch {
        // Stopped, or gone, since it was listed.
        this.#known.delete(id)
      }
    }
  }

  /** As it was when last looked at; null: it wasn't. */
  bytes(id: VmId): number | null {
    return this.#known.get(id)?.bytes ?? null
  }
}
