import { z } from 'zod'
import { NAME_PATTERN } from '../domain/text.ts'
import { PEER_ID_PATTERN } from '../domain/vm.ts'
import { messageCodec } from './message.ts'

/**
 * What agents tell each other about themselves, as `mesh.proto` draws it.
 * A version that rises adds fields that older agents pass over; what they
 * can't pass over gets a new protocol id or, for tokens, is refused.
 */

export const HELLO_VERSION = 1
export const JOIN_TOKEN_VERSION = 1 as const

/** A hello with 256 members of usual size is 40 KiB, 256 removals are 50 KiB; it must fit a stream's first window, 256 KiB. */
export const MAX_HELLO_BYTES = 128 * 1024
export const MAX_HELLO_ADDRESSES = 16
export const MAX_HELLO_MEMBERS = 256
/** Nodes that a mesh has removed, for good: each is in every hello. */
export const MAX_REMOVALS = 256
/** A removal in its signed envelope takes 200. */
export const MAX_REMOVAL_BYTES = 256
export const REMOVAL_VERSION = 1
export const MESH_KEY_BYTES = 32

/** Only bounded here: what can be dialled among them is for the mesh to say. */
const addresses = z.array(z.string().max(256)).max(MAX_HELLO_ADDRESSES)
const name = z.string().regex(NAME_PATTERN)

const peerId = z.string().regex(PEER_ID_PATTERN)

const hello = z.object({
  version: z.number().int().min(1),
  name,
  addresses,
  members: z.array(z.object({ peerId, name, addresses })).max(MAX_HELLO_MEMBERS),
  removals: z
    .array(
      z.custom<Uint8Array>(
        (value) => value instanceof Uint8Array && value.length <= MAX_REMOVAL_BYTES,
        `at most ${MAX_REMOVAL_BYTES} bytes`,
      ),
    )
    .max(MAX_REMOVALS),
})
export type Hello = z.infer<typeof hello>
export const helloCodec = messageCodec('drover.mesh.Hello', hello)

const removal = z.object({
  version: z.int().min(1),
  peerId,
  atMs: z.int().min(0),
})
export type RemovalMessage = z.infer<typeof removal>
export const removalCodec = messageCodec('drover.mesh.Removal', removal)

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
