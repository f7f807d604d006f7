import { z } from 'zod'
import {
  isClientHost,
  MAX_CLIENT_WEIGHT,
  MAX_CLIENTS,
  MAX_HOST_LENGTH,
  type VmClient,
} from '../domain/client.ts'
import type { CoolDown } from '../domain/cool-down.ts'
import { MAX_HERD_VMS } from '../domain/migration.ts'
import { PAGE_BYTES } from '../domain/page.ts'
import { type MachineSpec, TEMPLATE_ID_PATTERN } from '../domain/template.ts'
import { NAME_PATTERN, printable } from '../domain/text.ts'
import { type NicSpec, PEER_ID_PATTERN, type VmSpec } from '../domain/vm.ts'
import { messageCodec, type OneOf, oneOfCodec } from './message.ts'

/**
 * The messages of a move, as `migration.proto` draws them, with what each may
 * hold. Everything a peer says passes here first.
 */

/** Control messages: device state is the only thing in them that grows; a herd of the most VMs is smaller. */
export const MAX_CONTROL_BYTES = 1024 * 1024
/** Device state as sent: 500 bytes for a q35 machine; what doesn't fit is refused by the source. */
export const MAX_DEVICE_STATE_WIRE_BYTES = MAX_CONTROL_BYTES - 4096
/** Characters of a message for people. */
export const MAX_TEXT_LENGTH = 1024

// One spelling only: ids are compared, and name directories.
const uuid = z.uuid().lowercase()
const templateId = z.string().regex(TEMPLATE_ID_PATTERN)
// Not z.instanceof(): its type would demand an ArrayBuffer that is never shared.
const bytes = z.custom<Uint8Array>((value) => value instanceof Uint8Array)
const digest = bytes.refine((value) => value.length === 32, '32 bytes')
const uint32 = z.number().int().min(0).max(0xffffffff)
const count = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER)
const port = z.number().int().min(1).max(65535)
// Printed on terminals: a peer moves no cursor there.
const text = z.string().max(MAX_TEXT_LENGTH).transform(printable)
const empty: z.ZodType<object> = z.object({})
const peer = z.string().regex(/^[\x21-\x7e]{1,128}$/)
const code = z.string().regex(/^[A-Z][A-Z0-9_]{0,63}$/)

const nic: z.ZodType<NicSpec> = z.object({
  kind: z.literal('user'),
  slot: z.number().int().min(0).max(31),
  mac: z.string().regex(/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/),
  forwards: z.array(z.object({ protocol: z.enum(['tcp', 'udp']), hostPort: port, guestPort: port })).max(64),
})

export const vmClient: z.ZodType<VmClient> = z.object({
  host: z.string().max(MAX_HOST_LENGTH).refine(isClientHost, 'an IP address or a DNS name'),
  port,
  weight: z.number().int().min(1).max(MAX_CLIENT_WEIGHT),
})

const vmSpec: z.ZodType<VmSpec> = z.object({
  id: uuid,
  name: z.string().regex(NAME_PATTERN),
  templateId,
  generationId: uuid,
  nics: z.array(nic).max(32),
  hasDisk: z.boolean(),
  clients: z.array(vmClient).max(MAX_CLIENTS),
  auto: z.boolean(),
})

const coolDown: z.ZodType<CoolDown> = z.object({
  remainingMs: count,
  lengthMs: count,
  previousNode: z
    .union([z.literal(''), z.string().regex(PEER_ID_PATTERN)])
    .nullable()
    .transform((peerId) => peerId || null),
  sinceMoveMs: count,
})

const machine: z.ZodType<MachineSpec> = z.object({
  machineType: z.string().regex(/^pc-[a-z0-9]+-\d+\.\d+$/),
  accelerator: z.enum(['kvm', 'tcg']),
  cpuModel: z.string().regex(/^[A-Za-z0-9._-]{1,64}$/),
  cpus: z.number().int().min(1).max(1024),
  memoryBytes: z
    .number()
    .int()
    .min(PAGE_BYTES)
    .max(2 ** 40),
  spareRootPorts: z.number().int().min(0).max(32),
  kernelCommandLine: z.string().max(4096),
})

const herdVm = z.object({ vmId: uuid, templateId, privatePages: uint32, machine })

const grant = z.object({
  migrationId: uuid,
  vmId: uuid,
  epoch: count,
  source: peer,
  destination: peer,
  digest,
  place: uuid,
})

/** An Ed25519 signature has 64 bytes; other keys' are longer. */
const MAX_SIGNATURE_BYTES = 512
const MAX_STATEMENT_BYTES = 1024

const signed = z.object({
  statement: bytes.refine((value) => value.length <= MAX_STATEMENT_BYTES, 'too long'),
  signature: bytes.refine((value) => value.length <= MAX_SIGNATURE_BYTES, 'too long'),
})
export type StatementBody = z.infer<typeof signed>

const word = z.enum(['GRANT', 'TAKEN', 'REFUSED'])
export type StatementWord = z.infer<typeof word>
export const statementCodec = messageCodec('drover.migration.Statement', z.object({ word, grant }))
export const signedCodec = messageCodec('drover.migration.Signed', signed)

const controlBodies = {
  offer: z.object({
    migrationId: uuid,
    vm: vmSpec,
    epoch: count,
    privatePages: uint32,
    hashSeed: uint32,
    qemuVersion: z.string().regex(/^\d+(\.\d+){1,3}$/),
    paused: z.boolean(),
    machine,
    baseline: bytes.refine((value) => value.length === 0 || value.length === 32, 'none or 32 bytes'),
    maxBytesPerSecond: count,
    coolDown: coolDown.nullable(),
  }),
  accept: z.object({ templateMissing: z.boolean(), baselineHeld: z.boolean(), siblings: bytes, place: uuid }),
  refuse: z.object({ code, message: text, detailsJson: z.string().max(8192) }),
  templateProgress: z.object({ bytes: count }),
  prepared: z.object({ templateBytes: count, baselineLost: z.boolean() }),
  roundApplied: z.object({ round: uint32, lost: bytes }),
  finish: z.object({ deviceState: bytes, deviceStateBytes: uint32, digest, rounds: uint32, pausedNs: count }),
  ready: z.object({ digest }),
  grant: signed,
  running: signed,
  settled: z.object({ privatePages: uint32, sharedPages: uint32 }),
  abort: z.object({ code, message: text }),
  herdOffer: z.object({
    herdId: uuid,
    vms: z
      .array(herdVm)
      .min(1)
      .max(MAX_HERD_VMS)
      .refine((vms) => new Set(vms.map(({ vmId }) => vmId)).size === vms.length, 'each VM once'),
  }),
  herdAccept: empty,
}

export type ControlMessage = OneOf<typeof controlBodies>
export type ControlKind = ControlMessage['kind']
export type ControlBody<K extends ControlKind> = Extract<ControlMessage, { kind: K }>
export const controlCodec = oneOfCodec('drover.migration.Control', controlBodies)

export const pagesHelloCodec = messageCodec('drover.migration.PagesHello', z.object({ migrationId: uuid }))

const encoding = z.enum([
  'ENCODING_ZERO',
  'ENCODING_TEMPLATE',
  'ENCODING_RAW',
  'ENCODING_ZSTD',
  'ENCODING_DELTA',
  'ENCODING_REFERENCE',
])
export type WireEncoding = z.infer<typeof encoding>

const pagesBodies = {
  batch: z.object({
    round: uint32,
    groups: z.array(z.object({ encoding, indexDeltas: z.array(uint32).max(256), data: bytes })).max(8),
  }),
  roundEnd: z.object({ round: uint32, pages: uint32 }),
}

export type PagesFrame = OneOf<typeof pagesBodies>
export const pagesCodec = oneOfCodec('drover.migration.PagesFrame', pagesBodies)

export const verdictRequestCodec = messageCodec('drover.migration.VerdictRequest', z.object({ grant }))
