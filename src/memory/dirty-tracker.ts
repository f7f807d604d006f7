import type { PageBitmap } from '../domain/bitmap.ts'

/**
 * Narrows down which private pages may have changed since they were last
 * looked at. What it names is read and compared by hash before it is sent, so
 * naming too many pages costs time and naming too few would lose data.
 */
export interface DirtyTracker {
  readonly kind: 'soft-dirty' | 'hash'

  /**
   * The guest's private pages, and those of them that may have changed since
   * the previous call. The first call names every private page.
   */
  next(): Promise<{ private: PageBitmap; candidates: PageBitmap }>
}
