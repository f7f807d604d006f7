import type { Encoding, PageGroup } from '../codec/index.ts'
import type { PagesFrame, WireEncoding } from '../wire/migration-messages.ts'

/** Encodings by their names on the wire; neither side's spelling depends on the other's. */
const ENCODING = {
  ENCODING_ZERO: 'zero',
  ENCODING_TEMPLATE: 'template',
  ENCODING_RAW: 'raw',
  ENCODING_ZSTD: 'zstd',
  ENCODING_DELTA: 'delta',
  ENCODING_REFERENCE: 'reference',
} as const satisfies Record<WireEncoding, Encoding>

/** Groups of a PageBatch. Indices are as the peer gave them: decodeBatch() checks them. */
export function pageGroups(batch: Extract<PagesFrame, { kind: 'batch' }>): PageGroup[] {
  return batch.groups.map(({ encoding, indexDeltas, data }) => {
    let index = 0
    const indices = indexDeltas.map((delta) => {
      index += delta
      return index
    })
    return { encoding: ENCODING[encoding], indices, data }
  })
}
