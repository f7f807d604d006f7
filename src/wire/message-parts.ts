import protobuf, { type Field, type Reader, type Type } from 'protobufjs'

/** Wire types of protobuf: a number of up to 10 bytes; a length and so many bytes. */
const VARINT = 0
const LENGTH_DELIMITED = 2

const PACKABLE: Readonly<Record<string, number>> = protobuf.types.packed

/**
 * How many things would be built of an encoded message: messages within it,
 * however deep, and elements of its lists. On the wire one takes as little as
 * one or two bytes, in memory and in checks hundreds: 1 MiB of empty messages
 * keeps an agent busy for a second, 36 MiB of empty hashes for ten, with 2 GB
 * of memory. Counting takes a look at each tag, and none at what `bytes` hold.
 *
 * @param most - where to stop: more than that is returned as `most` + 1
 * @throws Error when it ends too early or has a tag that is none
 */
export function countParts(type: Type, bytes: Uint8Array, most: number): number {
  const reader = protobuf.Reader.create(bytes)
  let parts = 0
  while (reader.pos < reader.len && parts <= most) {
    const tag = reader.uint32()
    const field = type.fieldsById[tag >>> 3]
    if (field === undefined || (tag & 7) !== LENGTH_DELIMITED) {
      if (field?.repeated) parts++
      reader.skipType(tag & 7)
      continue
    }
    parts += countIn(field, reader, most - parts)
  }
  return Math.min(parts, most + 1)
}

/** What one length-delimited field adds; the reader is behind it then. */
function countIn(field: Field, reader: Reader, most: number): number {
  if (field.resolvedType instanceof protobuf.Type) {
    return 1 + countParts(field.resolvedType, reader.bytes(), most - 1)
  }
  const wireType = field.resolvedType === null ? PACKABLE[field.type] : VARINT
  if (!field.repeated || wireType === undefined) {
    reader.skipType(LENGTH_DELIMITED)
    return field.repeated ? 1 : 0
  }
  // Packed: each number ends with a byte below 128; of fixed ones this counts too many, never too few.
  const content = reader.bytes()
  return wireType === VARINT ? countEnds(content) : content.length
}

function countEnds(varints: Uint8Array): number {
  let ends = 0
  for (const byte of varints) if (byte < 0x80) ends++
  return ends
}
