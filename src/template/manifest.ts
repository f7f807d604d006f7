import { hash } from 'node:crypto'
import { CID } from 'multiformats/cid'
import * as raw from 'multiformats/codecs/raw'
import * as Digest from 'multiformats/hashes/digest'
import { sha256 } from 'multiformats/hashes/sha2'
import { z } from 'zod'
import { CHUNK_BYTES } from '../domain/page.ts'
import type { MachineSpec, TemplateId, TemplateManifest } from '../domain/template.ts'
import { messageCodec } from '../wire/message.ts'
import { TemplateError } from './errors.ts'
import { HASH_BYTES } from './hashing.ts'
import { countChunks } from './layout.ts'

/**
 * The manifest's bytes are the template's identity, so there is exactly one
 * way to write each manifest (`template.proto`): fields in ascending order, no
 * field that holds its default, which is how protobufjs writes proto3. What
 * doesn't survive decoding and encoding byte for byte isn't a manifest.
 */
const FORMAT_VERSION = 2

/** RAM and files together: 1 TiB. */
const MAX_CHUNKS = 2 ** 20
/** An x86 kernel reads at most 2047 characters of its command line (COMMAND_LINE_SIZE, arch/x86). */
const MAX_COMMAND_LINE_CHARS = 2047
/** QEMU's limit for q35 (hw/i386/pc_q35.c, max_cpus). */
const MAX_CPUS = 288
const MAX_SPARE_ROOT_PORTS = 16

/** A hash, its field header and its length. */
const BYTES_PER_CHUNK_HASH = HASH_BYTES + 2

/** A manifest of 1 TiB: 34 bytes per chunk, and room for the rest. */
export const MAX_MANIFEST_BYTES = MAX_CHUNKS * BYTES_PER_CHUNK_HASH + 16 * 1024

const sha256Bytes = z.custom<Uint8Array>(
  (value) => value instanceof Uint8Array && value.length === HASH_BYTES,
)

const machine = z.object({
  machineType: z
    .string()
    .max(32)
    .regex(/^pc-(q35|i440fx)-\d+\.\d+$/),
  accelerator: z.enum(['kvm', 'tcg']),
  cpuModel: z
    .string()
    .max(64)
    .regex(/^[A-Za-z0-9._-]+$/),
  cpus: z.int().min(1).max(MAX_CPUS),
  memoryBytes: z
    .int()
    .min(CHUNK_BYTES)
    .max(MAX_CHUNKS * CHUNK_BYTES)
    .multipleOf(CHUNK_BYTES),
  spareRootPorts: z.int().min(0).max(MAX_SPARE_ROOT_PORTS),
  // Printable ASCII: it becomes an argument of QEMU.
  kernelCommandLine: z
    .string()
    .max(MAX_COMMAND_LINE_CHARS)
    .regex(/^[\x20-\x7e]*$/),
})

const fileBytes = z.int().max(MAX_CHUNKS * CHUNK_BYTES)

const manifest = z
  .object({
    formatVersion: z.literal(FORMAT_VERSION),
    machine,
    chunkHashes: z.array(sha256Bytes).max(MAX_CHUNKS),
    sizes: z.object({
      state: fileBytes.min(1),
      kernel: fileBytes.min(1),
      initrd: fileBytes.min(0),
      disk: fileBytes.min(0),
    }),
  })
  .refine((m) => m.chunkHashes.length === countChunks(m), {
    path: ['chunkHashes'],
    message: 'not one hash for each MiB of memory and files',
  })

const codec = messageCodec('drover.template.Manifest', manifest, { bytesPerPart: BYTES_PER_CHUNK_HASH })

/**
 * Canonical bytes of a manifest.
 *
 * @throws TemplateError MANIFEST_MALFORMED when no peer would accept it
 */
export function encodeManifest(m: TemplateManifest): Uint8Array {
  const checked = manifest.safeParse({ formatVersion: FORMAT_VERSION, ...m })
  if (!checked.success) throw malformed(issueText(checked.error), checked.error)
  return codec.encode(checked.data)
}

/**
 * The manifest that bytes from anywhere stand for; copied, not a view.
 *
 * @throws TemplateError MANIFEST_MALFORMED
 */
export function decodeManifest(bytes: Uint8Array): TemplateManifest {
  if (bytes.length > MAX_MANIFEST_BYTES) throw malformed(`${bytes.length} bytes`)
  let decoded: z.infer<typeof manifest>
  try {
    decoded = codec.decode(Uint8Array.from(bytes))
  } catch (cause) {
    throw malformed((cause as Error).message, cause)
  }
  if (Buffer.compare(codec.encode(decoded), bytes) !== 0) throw malformed('not in canonical form')
  const { formatVersion: _, ...result } = decoded
  return result
}

/** CIDv1 (raw, sha2-256) in base32 of a manifest's bytes. */
export function templateId(manifestBytes: Uint8Array): TemplateId {
  const digest = Digest.create(sha256.code, hash('sha256', manifestBytes, 'buffer'))
  return CID.createV1(raw.code, digest).toString()
}

/**
 * Whether templates can be made of a machine; checked before it is booted.
 *
 * @throws TemplateError MACHINE_INVALID
 */
export function checkMachine(spec: MachineSpec): void {
  const checked = machine.safeParse(spec)
  if (checked.success) return
  throw new TemplateError(
    'MACHINE_INVALID',
    `no template can have this machine: ${issueText(checked.error)}`,
    {
      cause: checked.error,
    },
  )
}

function issueText(error: z.ZodError): string {
  const [issue] = error.issues
  return `${issue?.path.join('.')}: ${issue?.message}`
}

function malformed(what: string, cause?: unknown): TemplateError {
  return new TemplateError('MANIFEST_MALFORMED', `not a template manifest: ${what}`, { cause })
}
