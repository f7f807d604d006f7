import { z } from 'zod'
import { TEMPLATE_ID_PATTERN } from '../domain/template.ts'
import { NAME_PATTERN } from '../domain/text.ts'
import { MAX_ANNOUNCEMENT_BYTES, wireVmState } from './announcement-message.ts'
import { messageCodec } from './message.ts'

/**
 * What nodes ask each other for, as `mesh.proto` draws it: announcements that
 * they hold (`/drover/directory/1`), and all that one of them has
 * (`/drover/inventory/1`). One request, then frames until the channel's end.
 */

export const DIRECTORY_VERSION = 1
export const INVENTORY_VERSION = 1

/** Of SHA-256: two of 4096 envelopes share it once in 10^12 directories, and a beat mends that. */
export const KNOWN_DIGEST_BYTES = 8
/** As many as a directory holds. */
export const MAX_KNOWN = 4096
export const MAX_DIRECTORY_REQUEST_BYTES = MAX_KNOWN * KNOWN_DIGEST_BYTES + 64
/** Some 60 usual announcements: small enough to leave room for others on a slow link. */
export const MAX_DIRECTORY_FRAME_BYTES = 64 * 1024

export const MAX_INVENTORY_REQUEST_BYTES = 64
export const MAX_INVENTORY_FRAME_BYTES = 64 * 1024
export const MAX_TEMPLATE_NAMES = 64

export const directoryRequestCodec = messageCodec(
  'drover.mesh.DirectoryRequest',
  z.object({
    version: z.int().min(1),
    known: z.custom<Uint8Array>(
      (value) =>
        value instanceof Uint8Array &&
        value.length % KNOWN_DIGEST_BYTES === 0 &&
        value.length <= MAX_KNOWN * KNOWN_DIGEST_BYTES,
      'no list of digests',
    ),
  }),
)

const held = z.object({
  envelope: z.custom<Uint8Array>(
    (value) => value instanceof Uint8Array && value.length <= MAX_ANNOUNCEMENT_BYTES,
    `at most ${MAX_ANNOUNCEMENT_BYTES} bytes`,
  ),
  ageMs: z.int().min(0),
})
export type HeldAnnouncement = z.infer<typeof held>
export const directoryFrameCodec = messageCodec(
  'drover.mesh.DirectoryFrame',
  z.object({ held: z.array(held).min(1) }),
)

export const inventoryRequestCodec = messageCodec(
  'drover.mesh.InventoryRequest',
  z.object({ version: z.int().min(1) }),
)

const templateId = z.string().regex(TEMPLATE_ID_PATTERN)
const inventoryFrame = z
  .object({
    templates: z.array(
      z.object({
        id: templateId,
        names: z.array(z.string().regex(NAME_PATTERN)).max(MAX_TEMPLATE_NAMES),
        memoryBytes: z.int().min(0),
      }),
    ),
    vms: z.array(
      z.object({
        id: z.uuid().lowercase(),
        name: z.string().regex(NAME_PATTERN),
        templateId,
        state: wireVmState,
        epoch: z.int().min(0),
      }),
    ),
  })
  .refine(({ templates, vms }) => templates.length + vms.length > 0, 'an empty frame')
export type InventoryFrame = z.infer<typeof inventoryFrame>
export const inventoryFrameCodec = messageCodec('drover.mesh.InventoryFrame', inventoryFrame)
