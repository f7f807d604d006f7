import protobuf, { type Type } from 'protobufjs'
import type { z } from 'zod'
import { WireError } from './errors.ts'
import { countParts } from './message-parts.ts'
import { messageType } from './schema.ts'

/**
 * Messages and elements of lists within one message: see `countParts`. The most
 * that any has use for is 2,100, an Offer with all the NICs and forwards there
 * can be. So many of the wrong ones take 10 ms to refuse.
 */
export const MAX_MESSAGE_PARTS = 4096

/** A message of `proto/` that is checked on the way in: `T` is what the rest of drover may rely on. */
export interface MessageCodec<T> {
  encode(message: T): Uint8Array
  /**
   * `bytes` fields are views on the input: copy what must live longer.
   *
   * @throws WireError MESSAGE_MALFORMED
   */
  decode(bytes: Uint8Array): T
}

/**
 * @param typeName - full protobuf name, such as `drover.migration.PagesHello`
 * @param schema - what a decoded message must satisfy; absent fields arrive as
 *   proto3 defaults, absent messages as null
 * @param options.bytesPerPart - of a message whose parts have no number that they stay below: how many bytes each
 *   takes at least, beyond the first MAX_MESSAGE_PARTS
 */
export function messageCodec<T>(
  typeName: string,
  schema: z.ZodType<T>,
  { bytesPerPart = Number.POSITIVE_INFINITY }: { bytesPerPart?: number } = {},
): MessageCodec<T> {
  const type = messageType(typeName)
  return {
    encode: (message) => encodePlain(type, message as Record<string, unknown>),
    decode: (bytes) => {
      const maxParts = MAX_MESSAGE_PARTS + Math.floor(bytes.length / bytesPerPart)
      return check(typeName, schema, toPlain(type, bytes, maxParts))
    },
  }
}

type Bodies = Readonly<Record<string, z.ZodType<object>>>

/** One of several bodies, told apart by `kind`, the name of its field in the `oneof`. */
export type OneOf<B extends Bodies> = { [K in keyof B & string]: { kind: K } & z.infer<B[K]> }[keyof B &
  string]

/** Codec of a message that consists of one `oneof` with message bodies. A body that isn't known is malformed. */
export function oneOfCodec<B extends Bodies>(typeName: string, bodies: B): MessageCodec<OneOf<B>> {
  const type = messageType(typeName)
  return {
    encode({ kind, ...body }) {
      return encodePlain(type, { [kind]: body })
    },
    decode(bytes) {
      const plain = toPlain(type, bytes, MAX_MESSAGE_PARTS)
      const kind = Object.keys(bodies).find((name) => plain[name] !== undefined && plain[name] !== null)
      if (kind === undefined)
        throw new WireError('MESSAGE_MALFORMED', `${typeName} with no body that is known here`)
      return { kind, ...check(`${typeName}.${kind}`, bodies[kind]!, plain[kind]) } as OneOf<B>
    },
  }
}

/** What tags, lengths and numbers of a message take beside its `bytes` fields, and more: 256 page indices are 1.3 KB. */
const BESIDE_BYTES = 4096

/**
 * protobufjs' writer grows by doubling, moves what it has written to put a
 * length before it, and copies all of it at the end: 4 MiB of garbage for a
 * message with 1 MiB of pages. So it gets a buffer that is large enough, and
 * that buffer is the message.
 */
function encodePlain(type: Type, plain: Record<string, unknown>): Uint8Array {
  const writer = protobuf.Writer.create()
  writer.buf = Buffer.allocUnsafe(bytesIn(plain) + BESIDE_BYTES)
  return type.encode(type.fromObject(plain), writer).finish(true)
}

/** Of all `bytes` fields, however deep. */
function bytesIn(value: unknown): number {
  if (value instanceof Uint8Array) return value.length
  if (typeof value !== 'object' || value === null) return 0
  return Object.values(value).reduce((sum: number, field) => sum + bytesIn(field), 0)
}

function toPlain(type: Type, bytes: Uint8Array, maxParts: number): Record<string, unknown> {
  try {
    if (countParts(type, bytes, maxParts) > maxParts) throw new RangeError(`more than ${maxParts} parts`)
    return type.toObject(type.decode(bytes), { longs: Number, enums: String, defaults: true, arrays: true })
  } catch (cause) {
    throw new WireError('MESSAGE_MALFORMED', `not a ${type.name}`, { cause })
  }
}

function check<T>(typeName: string, schema: z.ZodType<T>, plain: unknown): T {
  const checked = schema.safeParse(plain)
  if (checked.success) return checked.data
  const [issue] = checked.error.issues
  throw new WireError('MESSAGE_MALFORMED', `${typeName}: ${issue?.path.join('.')}: ${issue?.message}`)
}
