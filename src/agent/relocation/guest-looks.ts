import type { VmId } from '../../domain/vm.ts'
import type { GuestLook } from '../../vm/index.ts'

/** A look reads the guest's page map, 3 ms for 512 MiB: not at each look of the rebalancer. */
const LOOK_AGAIN_MS = 10_000

export interface GuestLooksInit {
  look: (id: VmId) => Promise<GuestLook>
  /** Any clock, in ms. */
  now: () => number
}

/** What guests have for themselves, and how fast they write it, as of some seconds ago at the most. */
export class GuestLooks {
  readonly #look: GuestLooksInit['look']
  readonly #now: () => number
  #known = new Map<VmId, GuestLook & { atMs: number }>()

  constructor({ look, now }: GuestLooksInit) {
    this.#look = look
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
        this.#known.set(id, { ...(await this.#look(id)), atMs: this.#now() })
      } catch {
        // Stopped, or gone, since it was listed.
        this.#known.delete(id)
      }
    }
  }

  /** As it was when last looked at; null: it wasn't. */
  get(id: VmId): GuestLook | null {
    return this.#known.get(id) ?? null
  }
}
