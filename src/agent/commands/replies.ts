import { z } from 'zod'
import { MAX_CLIENTS } from '../../domain/client.ts'
import type { MigrationProgress, MigrationReport } from '../../domain/migration.ts'
import { TEMPLATE_ID_PATTERN } from '../../domain/template.ts'
import { NAME_PATTERN } from '../../domain/text.ts'
import { vmClient } from '../../wire/migration-messages.ts'
import type {
  DrainProgress,
  DrainReply,
  MigrateReply,
  MigrationReply,
  NodeStateReply,
  VmReply,
  VmShowReply,
} from '../api-schema.ts'

/** What nodes answer commands with, as far as another node believes it. */

const count = z.number().min(0).max(Number.MAX_SAFE_INTEGER)
const text = z.string().max(4096)
const name = z.string().regex(NAME_PATTERN)
const uuid = z.uuid()
const peerId = z.string().max(64)
const templateId = z.string().regex(TEMPLATE_ID_PATTERN)
const port = z.int().min(1).max(65_535)

/** Far more than are asked for one VM. */
const MAX_NODES_MEASURED = 64

const error = z.object({ code: text, message: text, details: z.record(z.string(), z.unknown()) })

const outcome = z.enum(['failed', 'usage', 'refused', 'in-doubt', 'cancelled'])

const nic = z.object({
  kind: z.literal('user'),
  slot: z.int().min(0).max(31),
  mac: text,
  forwards: z.array(z.object({ protocol: z.enum(['tcp', 'udp']), hostPort: port, guestPort: port })).max(64),
})

const vm = z.object({
  name,
  id: uuid,
  node: name,
  epoch: count,
  state: z.enum(['running', 'paused', 'departing', 'in-doubt', 'stopped']),
  reason: text.nullable(),
  template: templateId,
  templateNames: z.array(text).max(64),
  memoryBytes: count.nullable(),
  createdAtMs: count,
  // Of a process there: of no use here, but of interest.
  pid: count.nullable(),
  nics: z.array(nic).max(32),
  hasDisk: z.boolean(),
  clients: z.array(vmClient).max(MAX_CLIENTS),
  auto: z.boolean(),
  generationId: uuid,
  migrationId: uuid.nullable(),
})
export const vmReply: z.ZodType<VmReply> = vm

export const vmShowReply: z.ZodType<VmShowReply> = vm.extend({
  pages: z.object({ guest: count, private: count, shared: count, untouched: count }).nullable(),
  pagesUnavailable: text.nullable(),
  runState: text.nullable(),
  clientLatency: z
    .object({
      atMs: count,
      nodes: z.array(z.object({ peerId, name: text, latencyMs: count })).max(MAX_NODES_MEASURED),
    })
    .nullable(),
  // A path of the other machine leads nowhere here.
  consoleSocket: z.unknown().transform(() => null),
})

export const moveProgress: z.ZodType<MigrationProgress> = z.object({
  migrationId: uuid,
  vm: name,
  to: peerId,
  phase: z.enum(['negotiate', 'template', 'rounds', 'blackout']),
  round: count,
  pagesSent: count,
  bytesSent: count,
  throttlePercent: count,
})

const durationsMs = z.object({
  total: count,
  negotiate: count,
  template: count,
  rounds: count,
  blackout: count,
})

const report = z.object({
  migrationId: uuid,
  vm: name,
  from: peerId,
  to: peerId,
  templateId: z.union([templateId, z.literal('')]),
  outcome: z.enum(['completed', 'failed', 'cancelled', 'refused', 'in-doubt']),
  durationsMs,
  bytes: z.object({ wire: count, template: count, pages: count, deviceState: count, stockEquivalent: count }),
  pages: z.object({
    guest: count,
    private: count,
    sent: count,
    omitted: count,
    zero: count,
    xor: count,
    zstd: count,
    raw: count,
    reference: count,
    template: count,
  }),
  rounds: z.array(z.object({ pages: count, bytes: count, ms: count, throttlePercent: count })).max(1024),
  destination: z.object({ private: count, shared: count }).nullable(),
  digest: z.literal('verified').nullable(),
  error: error.nullable(),
})
export const migrationReport: z.ZodType<MigrationReport> = report
export const migrationReply: z.ZodType<MigrationReply> = report.extend({ running: z.boolean() })

export const migrateReply: z.ZodType<MigrateReply> = z.object({
  migrations: z
    .array(
      z.union([
        z.object({ vm: name, migrationId: uuid }),
        z.object({
          vm: name,
          error: error.extend({ outcome }),
        }),
      ]),
    )
    .max(64),
})

/** More VMs than a reply has room for. */
const MAX_DRAINED = 1024

export const drainProgress: z.ZodType<DrainProgress> = z.object({
  moved: count,
  notPlaced: count,
  left: count,
  move: moveProgress.nullable(),
})
export const drainReply: z.ZodType<DrainReply> = z.object({
  node: name,
  moved: z
    .array(z.object({ vm: name, to: peerId, node: text, migrationId: uuid, durationsMs }))
    .max(MAX_DRAINED),
  notPlaced: z.array(z.object({ vm: name, code: text, message: text, outcome })).max(MAX_DRAINED),
  stopped: z.array(name).max(MAX_DRAINED),
})
export const nodeStateReply: z.ZodType<NodeStateReply> = z.object({ node: name, draining: z.boolean() })
