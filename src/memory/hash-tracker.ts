import type { DirtyTracker } from './dirty-tracker.ts'
import type { ScannedMemory } from './pagemap.ts'

/**
 * For kernels that don't say what was written: every private page is a
 * candidate, each time. Reading and hashing one takes about 2 µs.
 */
export function hashTracker(memory: ScannedMemory): DirtyTracker {
  return {
    kind: 'hash',
    async next() {
      const { private: pages } = await memory.scan()
      return { private: pages, candidates: pages }
    },
  }
}
