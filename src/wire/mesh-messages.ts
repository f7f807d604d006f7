import { z } from 'zod'
import { NAME_PATTERN } from '../domain/text.ts'
import { messageCodec } from './message.ts'

/**
 * What agents tell each other about themselves, as `mesh.proto` draws it.
 * A version that rises adds fields that older agents pass over; what they
 * can't pass over gets a new protocol id or, for tokens, is refused.
 */

export const HELLO_VERSION = 1
export const JOIN_TOKEN_VERSION = 1 as const

/** A hello with 256 members of usual size is 40 KiB. */
export const MAX_HELLO_BYTES = 64 * 1024
export const MAX_HELLO_ADDRESSES = 16
export const MAX_HELLO_MEMBERS = 256
export const MESH_KEY_BYTES = 32

/** Only bounded here: what can be dialled among them is for the mesh to say. */
const addresses = z.array(z.string().max(256)).max(MAX_HELLO_ADDRESSES)
const name = z.string().regex(NAME_PATTERN)

const hello = z.object({
  version: z.number().int().min(1),
  name,
  addresses,
  members: z
    .array(z.object({ peerId: z.string().regex(/^[1-9A-HJ-NP-Za-km-z]{32,64}$/), name, addresses }))
    .max(MAX_HELLO_MEMBERS),
})
export type Hello = z.infer<typeof hello>
export const helloCodec = messageCodec('drover.mesh.Hello', hello)

const meshKey: z.ZodType<Uint8Array> = z
  .instanceof(Uint8Array)
  .refine((bytes) => bytes.length === MESH_KEY_BYTES, '32 bytes')

const joinToken = z.object({
  version: z.literal(JOIN_TOKEN_VERSION),
  meshKey,
  addresses: addresses.min(1),
})
export type JoinTokenMessage = z.infer<typeof joinToken>
export const joinTokenCodec = messageCodec('drover.mesh.JoinToken', joinToken)
