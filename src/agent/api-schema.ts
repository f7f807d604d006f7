/**
 * The local API: HTTP over the agent's unix socket, JSON both ways. This file
 * is the contract that the agent serves and the command line speaks; nothing
 * else of the agent is imported by the command line.
 *
 * - Plain replies are one JSON object; lists are in a named array of one.
 * - Operations that take long answer with NDJSON: `{"progress":...}` lines,
 *   then one `{"result":...}` or `{"error":...}` line. Closing the connection
 *   cancels the operation (a move goes on: it has its own cancel).
 * - Errors are `{"error":{code,outcome,message,details}}`; the status follows
 *   the outcome: usage 400, refused 409, cancelled 499, failed 500, in-doubt 503.
 */
import { z } from 'zod'
import {
  isClientHost,
  MAX_CLIENT_WEIGHT,
  MAX_CLIENTS,
  MAX_HOST_LENGTH,
  type VmClient,
} from '../domain/client.ts'
import type { NodeCoordinate } from '../domain/coordinate.ts'
import type { ErrorBody, Outcome } from '../domain/errors.ts'
import {
  MAX_HERD_VMS,
  MAX_PARALLEL_MOVES,
  type MigrationProgress,
  type MigrationReport,
} from '../domain/migration.ts'
import type { NodeMemory, NodeQemu, NodeVm } from '../domain/node.ts'
import { CHUNK_BYTES } from '../domain/page.ts'
import type { PolicySettings } from '../domain/policy.ts'
import type { Accelerator, TemplateId } from '../domain/template.ts'
import { NAME_PATTERN } from '../domain/text.ts'
import type { MigrationId, NicSpec, PageCounts, VmId, VmStateName } from '../domain/vm.ts'
import type { ConsideredMove } from '../placement/index.ts'
import type { RebalancerStatus } from './rebalance/rebalancer.ts'

export const NDJSON = 'application/x-ndjson'

/** QEMU's fw_cfg and Linux both take 2048 bytes (COMMAND_LINE_SIZE on x86). */
const MAX_KERNEL_COMMAND_LINE_BYTES = 2047
const MAX_MEMORY_BYTES = 1024 ** 4
/** What QEMU's q35 takes without further options. */
const MAX_CPUS = 255
/** A day: nobody waits longer for a guest to get ready. */
const MAX_READY_TIMEOUT_MS = 24 * 3600 * 1000

const name = z
  .string()
  .regex(
    NAME_PATTERN,
    'a name is 1 to 63 letters, digits, ".", "_" or "-", and starts with a letter or digit',
  )
const path = z.string().startsWith('/', 'a path given to the agent is absolute').max(4096)
/** A name, an id or the start of one: looked up, never used as a path. */
const reference = z.string().min(1).max(256)
const port = z.int().min(1).max(65_535)

export const createTemplateSchema = z.strictObject({
  name,
  kernelPath: path,
  initrdPath: path.nullable(),
  diskPath: path.nullable(),
  kernelCommandLine: z
    .string()
    .refine((text) => Buffer.byteLength(text) <= MAX_KERNEL_COMMAND_LINE_BYTES, 'at most 2047 bytes'),
  memoryBytes: z
    .int()
    .min(16 * CHUNK_BYTES, 'a guest has at least 16 MiB')
    .max(MAX_MEMORY_BYTES)
    .multipleOf(CHUNK_BYTES, 'memory is a whole number of MiB'),
  cpus: z.int().min(1).max(MAX_CPUS),
  /** Versioned (`pc-q35-7.2`); null: the newest that this node's QEMU has. */
  machineType: z.string().max(64).nullable(),
  /** JavaScript regular expression, matched in multi-line mode against the serial console. */
  readyPattern: z.string().min(1).max(1024).refine(isPattern, 'not a regular expression'),
  readyTimeoutMs: z.int().min(1).max(MAX_READY_TIMEOUT_MS),
})
export type CreateTemplateRequest = z.infer<typeof createTemplateSchema>

/** Seals a running VM as a template. */
export const sealVmSchema = z.strictObject({ name, vm: reference })
export type SealVmRequest = z.infer<typeof sealVmSchema>

export const pullTemplateSchema = z.strictObject({ from: reference.nullable(), name: name.nullable() })
export type PullTemplateRequest = z.infer<typeof pullTemplateSchema>

export const verifyTemplatesSchema = z.strictObject({ template: reference.nullable(), repair: z.boolean() })
export type VerifyTemplatesRequest = z.infer<typeof verifyTemplatesSchema>

export const gcTemplatesSchema = z.strictObject({ limitBytes: z.int().min(0).nullable() })
export type GcTemplatesRequest = z.infer<typeof gcTemplatesSchema>

const client: z.ZodType<VmClient> = z.strictObject({
  host: z.string().max(MAX_HOST_LENGTH).refine(isClientHost, 'a host is an IP address or a DNS name'),
  port,
  weight: z.int().min(1).max(MAX_CLIENT_WEIGHT),
})
const clients = z.array(client).max(MAX_CLIENTS, `at most ${MAX_CLIENTS} clients`)

export const runVmSchema = z.strictObject({
  name,
  template: reference,
  nics: z
    .array(
      z.strictObject({
        mac: z
          .string()
          .regex(/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/, 'a MAC address is six lower-case hex pairs with colons')
          .optional(),
        forwards: z
          .array(z.strictObject({ protocol: z.enum(['tcp', 'udp']), hostPort: port, guestPort: port }))
          .max(64),
      }),
    )
    .max(8),
  clients: clients.default([]),
  auto: z.boolean().default(false),
})
export type RunVmRequest = z.infer<typeof runVmSchema>

/** What is null stays as it is. */
export const setVmSchema = z.strictObject({ clients: clients.nullable(), auto: z.boolean().nullable() })
export type SetVmRequest = z.infer<typeof setVmSchema>

export const stopVmSchema = z.strictObject({ force: z.boolean() })

export const migrateSchema = z.strictObject({
  vms: z.array(reference).min(1).max(MAX_HERD_VMS, `at most ${MAX_HERD_VMS} VMs at a time`),
  to: reference,
  /** For all of them together. */
  maxBandwidthBytesPerSecond: z.number().positive().nullable(),
  maxBlackoutMs: z.number().positive().nullable(),
  /** Moves side by side; the others wait, and are listed as running in phase `negotiate`. */
  parallel: z.int().min(1).max(MAX_PARALLEL_MOVES),
})
export type MigrateRequest = z.infer<typeof migrateSchema>

/** A command on a node: this one where `peer` is null. */
export const nodeCommandSchema = z.strictObject({ peer: reference.nullable() })
export type NodeCommandRequest = z.infer<typeof nodeCommandSchema>

export const resolveSchema = z.strictObject({ owner: z.enum(['source', 'destination']) })

export interface ApiError extends ErrorBody {
  outcome: Outcome
}

/** One line of an NDJSON reply. */
export type StreamLine<Progress, Result> = { progress: Progress } | { result: Result } | { error: ApiError }

export interface StatusReply {
  peerId: string
  name: string
  version: string
  pid: number
  uptimeMs: number
  addresses: string[]
  dataDir: string
  socket: string
  /** Who may send VMs here, fetch templates from here, command this node's VMs. */
  policy: PolicySettings
  /** `version` and `accelerator` are null, and `error` says why, on a node without a usable QEMU. */
  qemu: {
    path: string
    version: string | null
    accelerator: Accelerator | null
    /** Why KVM isn't used. */
    acceleratorReason: string | null
    defaultMachineType: string | null
    error: ErrorBody | null
  }
  memory: {
    limitBytes: number | null
    committedBytes: number
    reservedBytes: number
    availableBytes: number
  } | null
  /** It gives its VMs away and takes none. */
  draining: boolean
  /** Null on a node without VMs. */
  rebalancer: RebalancerStatus | null
  /** What has come of templates before they were needed, in the last hour; null on a node without VMs. */
  prefetch: { limitBytesPerHour: number; spentBytes: number } | null
  /** Pages of departed VMs on disk, for their return; null on a node without VMs. */
  keptPages: { keptBytes: number; limitBytes: number } | null
  /** QEMUs that are ready for VMs that arrive. */
  preparedQemus: { templateId: TemplateId; pid: number }[]
  counts: {
    vms: number
    vmsRunning: number
    templates: number
    members: number
    membersConnected: number
    migrationsRunning: number
  }
}

export interface DoctorCheck {
  check: string
  ok: boolean
  /** What was found. */
  detail: string
  /** What to do; null when nothing has to be done. */
  remedy: string | null
  /** Whether VMs can't run or move without it. */
  required: boolean
}
export interface DoctorReply {
  /** Whether every required check is ok. */
  ok: boolean
  checks: DoctorCheck[]
}

export interface MemberReply {
  peerId: string
  name: string | null
  addresses: string[]
  connected: boolean
  rttMs: number | null
  self: boolean
}
/** POST /mesh/members/PEER/remove. */
export interface RemovalReply {
  peerId: string
  /** Null: it was never met. */
  name: string | null
  /** Peer id of who removed it: somebody else where it was removed already. */
  removedBy: string
  atMs: number
}
/** A node of the mesh by its own words: GET /mesh/directory. */
export interface NodeReply {
  peerId: string
  name: string
  addresses: readonly string[]
  self: boolean
  memory: NodeMemory | null
  /** Load average of a minute, per CPU. */
  load: number
  cpus: number
  qemu: NodeQemu | null
  /** Ids; fewer than `templatesTotal` where there were too many to announce. */
  templates: readonly TemplateId[]
  templatesTotal: number
  vms: readonly NodeVm[]
  vmsTotal: number
  /** It gives its VMs away and takes none. */
  draining: boolean
  /** Where it is in the network, in ms; null: it doesn't tell. */
  coordinate: NodeCoordinate | null
  /** Since it was heard of; null for this node. */
  ageMs: number | null
  /** Until it is forgotten, if it falls silent; null for this node. */
  expiresInMs: number | null
}

interface NodeLabel {
  peerId: string
  name: string
}

/** GET /mesh/templates: which nodes hold a template. */
export interface MeshTemplateReply {
  id: TemplateId
  /** Labels that any of the nodes gave it. */
  names: string[]
  /** Null: none of its nodes answered. */
  memoryBytes: number | null
  nodes: NodeLabel[]
}
export interface MeshTemplatesReply {
  templates: MeshTemplateReply[]
  /** Nodes that were asked for more than they announced, and didn't answer. */
  unanswered: NodeLabel[]
}

/** GET /mesh/vms. */
export interface MeshVmReply {
  name: string
  id: VmId
  /** Name of its node. */
  node: string
  peerId: string
  /** `unreachable`: its node fell silent; whether it runs is not known. */
  state: VmStateName | 'unreachable'
  /** When that node was heard last, in ms since 1970; null: it is heard. */
  unreachableSinceMs: number | null
  epoch: number
  template: TemplateId
}
export interface MeshVmsReply {
  vms: MeshVmReply[]
  unanswered: NodeLabel[]
}

export interface PingReply {
  peerId: string
  name: string | null
  rttMs: number
}

export interface TemplateReply {
  id: TemplateId
  names: string[]
  createdAtMs: number
  memoryBytes: number
  machineType: string
  accelerator: Accelerator
  cpuModel: string
  cpus: number
  kernelCommandLine: string
  spareRootPorts: number
  stateBytes: number
  diskBytes: number | null
  /** Names of the VMs on this node that run from it. */
  usedBy: string[]
}
/** `stage` names what is going on; `done` and `total` are null where it can't be counted. */
export interface TemplateProgress {
  stage: string
  done: number | null
  total: number | null
}
export interface SealVmReply extends TemplateReply {
  /** The template that the VM is a clone of. */
  parent: TemplateId
  /** How long the VM stood still; 0 when its user had paused it. */
  blackoutMs: number
  /** Pages that differ from the parent's. */
  changedPages: number
}
export interface PullTemplateReply extends TemplateReply {
  /** Peer ids of those who sent it; none when it was here already. */
  from: readonly string[]
  /** On all channels of the fetch, framing included. */
  bytesReceived: number
  bytesSent: number
  /** Until all of it was here; sealing comes on top. */
  transferMs: number
}
export interface VerifyReply {
  templates: {
    id: TemplateId
    names: string[]
    /** Whether it is what its id says now. */
    ok: boolean
    /** What was found, before any repair. */
    damaged: { file: string; pages?: number[] }[]
    /** Null: nothing was repaired. */
    repaired: { from: readonly string[]; bytesReceived: number } | null
    /** Why it could not be. */
    error: ErrorBody | null
  }[]
  ok: boolean
}
export interface GcReply {
  /** Null: there is none, so no template was removed. */
  limitBytes: number | null
  removed: { id: TemplateId; names: string[]; bytes: number }[]
  /** Of interrupted fetches; removed. */
  partialBytes: number
  /** What the templates take that stay. */
  keptBytes: number
}

export interface VmReply {
  name: string
  id: VmId
  /** Name of the node that owns it: this one. */
  node: string
  epoch: number
  state: VmStateName
  /** Why a stopped VM is stopped. */
  reason: string | null
  template: TemplateId
  templateNames: string[]
  memoryBytes: number | null
  createdAtMs: number
  pid: number | null
  nics: readonly NicSpec[]
  hasDisk: boolean
  clients: readonly VmClient[]
  /** Whether it may be moved to where its clients are near. */
  auto: boolean
  generationId: string
  /** The move under way or in doubt. */
  migrationId: string | null
}
export interface VmShowReply extends VmReply {
  pages: PageCounts | null
  /** Why there are none; null when there are. */
  pagesUnavailable: string | null
  /** What QEMU says of the guest, such as `running` or `io-error` (QMP RunState). */
  runState: string | null
  /** Unix socket that carries the serial console; null while the VM is stopped. */
  consoleSocket: string | null
  /** Null: it isn't `auto`, none of its clients answers, or it has none. */
  clientLatency: ClientLatencyReply | null
}
/** What a VM's clients have from nodes: the weighted mean of their round trips. */
export interface ClientLatencyReply {
  atMs: number
  /** The nearest first. */
  nodes: { peerId: string; name: string; latencyMs: number }[]
}

/** How far a drain is: POST /drain. */
export interface DrainProgress {
  moved: number
  notPlaced: number
  /** VMs that are still to go, those on their way among them. */
  left: number
  /** The latest step of one of the moves under way; null before the first. */
  move: MigrationProgress | null
}
/** What became of each VM of a node that was drained. */
export interface DrainReply {
  /** Name of the node. */
  node: string
  moved: {
    vm: string
    /** Peer id of its node now, and that one's name. */
    to: string
    node: string
    migrationId: MigrationId
    durationsMs: MigrationReport['durationsMs']
  }[]
  notPlaced: { vm: string; code: string; message: string; outcome: Outcome }[]
  /** Names of stopped VMs: they have no memory to move. Their records stay. */
  stopped: string[]
}
/** POST /ready, POST /drain/stop. */
export interface NodeStateReply {
  node: string
  /** Whether it takes no VMs. */
  draining: boolean
}

/** GET /rebalance, POST /rebalance/{pause,resume}. */
export interface RebalanceReply extends RebalancerStatus {
  node: string
}
/** GET /rebalance/plan. */
export interface RebalancePlanReply extends Pick<RebalancerStatus, 'paused' | 'lookedAtMs'> {
  node: string
  /** Each move that it considered when it looked last, with its sum, and why it is or isn't made. */
  moves: readonly ConsideredMove[]
  /** Nodes that would not probe clients for this one, or didn't answer, when they were asked last; `code` says which. */
  notProbing: { peerId: string; name: string; code: string }[]
}

/** What became of a request to move VMs, in its order; `vm` as it was asked for. */
export interface MigrateReply {
  migrations: ({ vm: string; migrationId: MigrationId } | { vm: string; error: ApiError })[]
}

/** A move as it ended, or as far as it is. */
export interface MigrationReply extends MigrationReport {
  running: boolean
}
export type MigrationLine = StreamLine<MigrationProgress, MigrationReport>

/** Something that happened on this node; `kind` says what, and which fields are there. */
export interface EventReply {
  seq: number
  atMs: number
  kind: string
  [field: string]: unknown
}

function isPattern(text: string): boolean {
  try {
    new RegExp(text, 'm')
    return true
  } catch {
    return false
  }
}
