import { z } from 'zod'
import { COORDINATE_AXES, MAX_COORDINATE_ERROR, MAX_COORDINATE_MS } from '../domain/coordinate.ts'
import { NAME_PATTERN } from '../domain/text.ts'
import { type MessageCodec, messageCodec } from './message.ts'

/**
 * An announcement, as `mesh.proto` draws it, with what it may hold. What an
 * older agent doesn't know is a new field, which it passes over; everything
 * else that isn't as here is malformed, and whoever passed it on is to blame.
 */

export const ANNOUNCEMENT_VERSION = 1
/** With its envelope. Some 600 bytes for a node with five templates and five VMs; the rest is for busy ones. */
export const MAX_ANNOUNCEMENT_BYTES = 8 * 1024
/** 2 KiB of digests; more go into the filter. */
export const MAX_ANNOUNCED_TEMPLATES = 64
/** 16,384 bits: see template-filter.ts. */
export const MAX_TEMPLATE_FILTER_BYTES = 2048
/** With usual names 3 KiB. */
export const MAX_ANNOUNCED_VMS = 64
export const MAX_ANNOUNCED_ADDRESSES = 8
/** QEMU 10.0 has 26. */
export const MAX_ANNOUNCED_MACHINE_TYPES = 32
/** What a mesh of 4096 nodes comes to: three and a half of its beats. */
export const MAX_VALID_MS = 2 * 3600 * 1000

const MAX_COORDINATE_US = MAX_COORDINATE_MS * 1000
const MAX_ERROR_PERMILLE = MAX_COORDINATE_ERROR * 1000
const MAX_TOTAL = 1_000_000
const DIGEST_BYTES = 32
const VM_ID_BYTES = 16

const bytesOf = (length: number) =>
  z.custom<Uint8Array>((value) => value instanceof Uint8Array && value.length === length, `${length} bytes`)
const bytesUpTo = (maxBytes: number) =>
  z.custom<Uint8Array>(
    (value) => value instanceof Uint8Array && value.length <= maxBytes,
    `at most ${maxBytes} bytes`,
  )
const count = z.int().min(0)
const total = z.int().min(0).max(MAX_TOTAL)

/** Zero of the enum is invalid: absent is not a state. */
export const wireVmState = z.enum([
  'VM_STATE_RUNNING',
  'VM_STATE_PAUSED',
  'VM_STATE_DEPARTING',
  'VM_STATE_IN_DOUBT',
  'VM_STATE_STOPPED',
])
export type WireVmState = z.infer<typeof wireVmState>

const announcedVm = z
  .object({
    id: bytesOf(VM_ID_BYTES),
    name: z.string().regex(NAME_PATTERN),
    template: z.int().min(0).max(MAX_ANNOUNCED_TEMPLATES),
    templateDigest: bytesUpTo(DIGEST_BYTES),
    state: wireVmState,
    epoch: count,
  })
  .refine(
    ({ template, templateDigest }) => templateDigest.length === (template === 0 ? DIGEST_BYTES : 0),
    'either a place in the list or a digest',
  )

const memory = z.object({
  limitBytes: count,
  availableBytes: count,
  committedBytes: count,
  reservedBytes: count,
})

const qemu = z.object({
  version: z.string().regex(/^\d{1,4}(\.\d{1,4}){1,3}$/),
  q35Versions: z.array(z.string().regex(/^\d{1,4}\.\d{1,4}$/)).max(MAX_ANNOUNCED_MACHINE_TYPES),
  accelerator: z.enum(['kvm', 'tcg']),
  // Printed on terminals.
  cpuVendor: z.string().regex(/^[ -~]{1,16}$/),
  cpuLevel: z.int().min(1).max(4),
})

const coordinate = z.object({
  axesUs: z.array(z.int().min(-MAX_COORDINATE_US).max(MAX_COORDINATE_US)).length(COORDINATE_AXES),
  heightUs: z.int().min(0).max(MAX_COORDINATE_US),
  errorPermille: z.int().min(0).max(MAX_ERROR_PERMILLE),
})

const announcement = z
  .object({
    version: z.int().min(1),
    incarnation: count,
    sequence: count,
    validMs: z.int().min(0).max(MAX_VALID_MS),
    name: z.string().regex(NAME_PATTERN),
    addresses: z.array(z.string().max(256)).max(MAX_ANNOUNCED_ADDRESSES),
    memory: memory.nullable(),
    loadPermille: count,
    cpus: z.int().min(1).max(65_536),
    qemu: qemu.nullable(),
    templates: z.array(bytesOf(DIGEST_BYTES)).max(MAX_ANNOUNCED_TEMPLATES),
    templateFilter: bytesUpTo(MAX_TEMPLATE_FILTER_BYTES),
    templatesTotal: total,
    vms: z.array(announcedVm).max(MAX_ANNOUNCED_VMS),
    vmsTotal: total,
    draining: z.boolean(),
    coordinate: coordinate.nullable(),
  })
  .refine(
    ({ templates, templateFilter, templatesTotal }) =>
      templateFilter.length === 0 ? templates.length === templatesTotal : templates.length === 0,
    'templates are listed or in the filter',
  )
  .refine(({ templateFilter: { length } }) => (length & (length - 1)) === 0, 'no filter has that size')
  .refine(({ vms, vmsTotal }) => vms.length <= vmsTotal, 'more VMs than there are')
  .refine(
    ({ templates, vms }) => vms.every(({ template }) => template <= templates.length),
    'a VM of a template that is not in the list',
  )

export type AnnouncementMessage = z.infer<typeof announcement>
export type AnnouncedVm = z.infer<typeof announcedVm>
export const announcementCodec: MessageCodec<AnnouncementMessage> = messageCodec(
  'drover.mesh.Announcement',
  announcement,
)
