import type { Encoding, PageGroup } from '../codec/index.ts'
import { type PagesFrame, pagesCodec, type WireEncoding } from '../wire/migration-messages.ts'

/** Encodings by their names on the wire; neither side's spelling depends on the other's. */
const WIRE_ENCODING = {
  zero: 'ENCODING_ZERO',
  template: 'ENCODING_TEMPLATE',
  raw: 'ENCODING_RAW',
  zstd: 'ENCODING_ZSTD',
  delta: 'ENCODING_DELTA',
  reference: 'ENCODING_REFERENCE',
} as const satisfies Record<Encoding, WireEncoding>

const ENCODING = Object.fromEntries(
  Object.entries(WIRE_ENCODING).map(([encoding, wire]) => [wire, encoding]),
) as Record<WireEncoding, Encoding>

/** Bytes of a PageBatch frame. Indices travel as differences: neighbours cost one byte each. */
export function encodePagesFrame(round: number, groups: readonly PageGroup[]): Uint8Array {
  return pagesCodec.encode({
    kind: 'batch',
    round,
    groups: groups.map(({ encoding, indices, data }) => ({
      encoding: WIRE_ENCODING[encoding],
      indexDeltas: indices.map((index, i) => index - (i === 0 ? 0 : indices[i - 1]!)),
      data,
    })),
  })
}

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
