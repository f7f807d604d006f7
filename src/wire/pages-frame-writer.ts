/**
 * Writes the frames of pages that `migration.proto` describes and
 * `pagesCodec` reads, into memory that is there already. protobufjs would
 * copy each MiB twice, and its schemas would cost every page thread 30 MiB.
 *
 *     0a len                          PagesFrame.batch
 *        08 round                     PageBatch.round
 *        12 len                       PageBatch.groups, as many as there are
 *           08 encoding               PageGroup.encoding
 *           12 len delta...           PageGroup.index_deltas, packed
 *           1a len data               PageGroup.data
 *
 * Lengths and numbers are varints (protobuf.dev/programming-guides/encoding).
 */

/** The numbers of `Encoding` in migration.proto. */
export const WIRE_ENCODING_NUMBERS = {
  zero: 1,
  template: 2,
  raw: 3,
  zstd: 4,
  delta: 6,
  reference: 7,
} as const

/** Pages of one encoding; `indices` ascend. */
export interface WrittenGroup {
  encoding: keyof typeof WIRE_ENCODING_NUMBERS
  indices: readonly number[]
  data: Uint8Array
}

/**
 * @returns the frame: the beginning of `into`
 * @throws RangeError when it doesn't fit
 */
export function writePagesFrame(
  into: Uint8Array,
  round: number,
  groups: readonly WrittenGroup[],
): Uint8Array {
  const sized = groups.map((group) => {
    const deltas = group.indices.map((index, i) => index - (i === 0 ? 0 : group.indices[i - 1]!))
    const deltasBytes = deltas.reduce((sum, delta) => sum + varintBytes(delta), 0)
    const { length } = group.data
    const bytes = 2 + field(deltasBytes) + (length === 0 ? 0 : field(length))
    return { group, deltas, deltasBytes, bytes }
  })
  const batchBytes = 1 + varintBytes(round) + sized.reduce((sum, { bytes }) => sum + field(bytes), 0)
  if (field(batchBytes) > into.length) {
    throw new RangeError(`a frame of ${field(batchBytes)} bytes, there is room for ${into.length}`)
  }
  const writer = new VarintWriter(into)
  writer.varint(0x0a).varint(batchBytes).varint(0x08).varint(round)
  for (const { group, deltas, deltasBytes, bytes } of sized) {
    writer.varint(0x12).varint(bytes).varint(0x08).varint(WIRE_ENCODING_NUMBERS[group.encoding])
    writer.varint(0x12).varint(deltasBytes)
    for (const delta of deltas) writer.varint(delta)
    if (group.data.length > 0) writer.varint(0x1a).varint(group.data.length).bytes(group.data)
  }
  return into.subarray(0, writer.position)
}

/** A field with a length of so many bytes: tag, length, content. */
function field(bytes: number): number {
  return 1 + varintBytes(bytes) + bytes
}

function varintBytes(value: number): number {
  return value < 2 ** 7 ? 1 : value < 2 ** 14 ? 2 : value < 2 ** 21 ? 3 : value < 2 ** 28 ? 4 : 5
}

class VarintWriter {
  position = 0
  readonly #into: Uint8Array

  constructor(into: Uint8Array) {
    this.#into = into
  }

  varint(value: number): this {
    let rest = value
    while (rest > 0x7f) {
      this.#into[this.position++] = (rest & 0x7f) | 0x80
      rest >>>= 7
    }
    this.#into[this.position++] = rest
    return this
  }

  bytes(bytes: Uint8Array): void {
    this.#into.set(bytes, this.position)
    this.position += bytes.length
  }
}
