import type { TemplateId } from '../../domain/template.ts'
import type { VmId } from '../../domain/vm.ts'
import type { GuestLocation } from '../../memory/index.ts'
import { type HashedPages, PLACES } from './hashed-pages.ts'
import { encodeFilter } from './sibling-filter.ts'

/** 512 MiB of pages: 3.5 MiB here. */
export const MAX_SIBLING_PAGES = 131_072

export interface Sibling {
  vmId: VmId
  templateId: TemplateId
  guest: GuestLocation
  pages: HashedPages
}

/**
 * Pages that moves have brought here, by content, for the next clones of the
 * same template. In memory alone: after a restart of the agent there are none.
 */
export class SiblingIndex {
  readonly #isRunning: (vmId: VmId) => boolean
  readonly #maxPages: number
  /** Oldest first. */
  readonly #siblings = new Map<VmId, Sibling>()
  /** Made when they are first asked for. */
  readonly #prefixes = new Map<TemplateId, Prefixes>()

  /** @param isRunning - whether a VM runs on this node: the pages of others are nobody's */
  constructor(
    isRunning: (vmId: VmId) => boolean,
    { maxPages = MAX_SIBLING_PAGES }: { maxPages?: number } = {},
  ) {
    this.#isRunning = isRunning
    this.#maxPages = maxPages
  }

  /** Takes in a VM; the oldest go where there are too many pages. */
  add(sibling: Sibling): void {
    this.remove(sibling.vmId)
    this.#siblings.set(sibling.vmId, sibling)
    this.#prefixes.delete(sibling.templateId)
    let pages = this.#siblings.values().reduce((sum, { pages }) => sum + pages.indices.length, 0)
    for (const { vmId, pages: ofOldest } of this.#siblings.values()) {
      if (pages <= this.#maxPages) return
      this.remove(vmId)
      pages -= ofOldest.indices.length
    }
  }

  /** The VM left, ended, or was removed. */
  remove(vmId: VmId): void {
    const sibling = this.#siblings.get(vmId)
    if (sibling === undefined) return
    this.#siblings.delete(vmId)
    this.#prefixes.delete(sibling.templateId)
  }

  /** The VMs of a template, the newest first. */
  of(templateId: TemplateId): Sibling[] {
    for (const vmId of this.#siblings.keys()) if (!this.#isRunning(vmId)) this.remove(vmId)
    return [...this.#siblings.values()].filter((sibling) => sibling.templateId === templateId).reverse()
  }

  /**
   * What the source of another clone is told: see sibling-filter.ts. Where there is no
   * room for all, pages that several VMs have go first.
   *
   * @param maxEntries - filterEntriesFor() says how many are worth it
   * @returns nothing where there is nothing
   */
  filter(templateId: TemplateId, maxEntries: number): Uint8Array {
    const siblings = this.of(templateId)
    const prefixes = this.#prefixes.get(templateId) ?? countPrefixes(siblings)
    this.#prefixes.set(templateId, prefixes)
    const common = spread(prefixes.common, maxEntries)
    const single = spread(prefixes.single, maxEntries - common.length)
    const chosen = new Uint32Array(common.length + single.length)
    chosen.set(common)
    chosen.set(single, common.length)
    return encodeFilter(chosen.sort())
  }
}

/** Prefixes of hashes, ascending, each once. */
interface Prefixes {
  /** Of several pages. */
  common: Uint32Array
  single: Uint32Array
}

function countPrefixes(siblings: readonly Sibling[]): Prefixes {
  const all = new Uint32Array(siblings.reduce((sum, { pages }) => sum + pages.order.length, 0))
  let length = 0
  for (const { pages } of siblings) {
    for (const ordered of pages.order) all[length++] = Math.floor(ordered / PLACES)
  }
  all.sort()
  const common: number[] = []
  const single: number[] = []
  for (let i = 0; i < all.length; ) {
    let end = i + 1
    while (end < all.length && all[end] === all[i]) end++
    ;(end - i > 1 ? common : single).push(all[i]!)
    i = end
  }
  return { common: Uint32Array.from(common), single: Uint32Array.from(single) }
}

/** At most `max` of them, from everywhere. */
function spread(prefixes: Uint32Array, max: number): Uint32Array {
  if (prefixes.length <= max) return prefixes
  return Uint32Array.from({ length: max }, (_, i) => prefixes[Math.floor((i * prefixes.length) / max)]!)
}
