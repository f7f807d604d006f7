import type { TemplateId } from '../domain/template.ts'

/** A template as far as its removal goes. */
export interface GcCandidate {
  id: TemplateId
  /** What its files take on disk. */
  bytes: number
  /** When a VM last started or arrived on it, or it came here. */
  usedAtMs: number
  /** Whether another node is known to have it: it can be fetched again then. */
  isElsewhere: boolean
  /** VMs need it: it stays. */
  isInUse: boolean
}

/**
 * Which templates to remove so that the rest fits a limit. Pure. The least
 * useful go first: those that another node has before those that would be lost
 * to the mesh, the longest unused before the others.
 */
export function chooseForRemoval(candidates: readonly GcCandidate[], limitBytes: number): TemplateId[] {
  const removable = candidates
    .filter(({ isInUse }) => !isInUse)
    .toSorted((a, b) => Number(b.isElsewhere) - Number(a.isElsewhere) || a.usedAtMs - b.usedAtMs)
  let excessBytes = candidates.reduce((sum, { bytes }) => sum + bytes, 0) - limitBytes
  const chosen: TemplateId[] = []
  for (const { id, bytes } of removable) {
    if (excessBytes <= 0) break
    chosen.push(id)
    excessBytes -= bytes
  }
  return chosen
}
