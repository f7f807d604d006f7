import type { Type } from 'protobufjs'
import type { z } from 'zod'
import { WireError } from './errors.ts'
import { messageType } from './schema.ts'

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
 */
export function messageCodec<T>(typeName: string, schema: z.ZodType<T>): MessageCodec<T> {
  const type = messageType(typeName)
  return {
    encode: (message) => type.encode(type.fromObject(message as Record<string, unknown>)).finish(),
    decode: (bytes) => check(typeName, schema, toPlain(type, bytes)),
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
      return type.encode(type.fromObject({ [kind]: body })).finish()
    },
    decode(bytes) {
      const plain = toPlain(type, bytes)
      const kind = Object.keys(bodies).find((name) => plain[name] !== undefined && plain[name] !== null)
      if (kind === undefined)
        throw new WireError('MESSAGE_MALFORMED', `${typeName} with no body that is known here`)
      return { kind, ...check(`${typeName}.${kind}`, bodies[kind]!, plain[kind]) } as OneOf<B>
    },
  }
}

function toPlain(type: Type, bytes: Uint8Array): Record<string, unknown> {
  try {
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
