import { readFile } from 'node:fs/promises'
import { isIPv4, isIPv6 } from 'node:net'
import { hostname } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { z } from 'zod'
import type { PolicySettings } from '../domain/policy.ts'
import { NAME_PATTERN, parseSizeBytes } from '../domain/text.ts'
import { PEER_ID_PATTERN } from '../domain/vm.ts'
import { AgentError } from './errors.ts'

/** sun_path of a unix socket, terminating zero included (unix(7)). */
const MAX_SOCKET_PATH_BYTES = 107
/** What QEMU's sockets add to the run directory: a VM's UUID and the longest name there. */
const VM_SOCKET_SUFFIX = `/${'0'.repeat(36)}/incoming.sock`

export const DEFAULT_SOCKET = '/run/drover/agent.sock'
export const DEFAULT_DATA_DIR = '/var/lib/drover'
export const DEFAULT_LISTEN = '/ip4/0.0.0.0/tcp/4710'
/** Some templates: what an hour of an idle link of 2.4 Mbit/s carries. */
const DEFAULT_PREFETCH_LIMIT_BYTES = 1024 ** 3
/** Several VMs' own pages: an edge node has more disk than memory. */
const DEFAULT_KEEP_LIMIT_BYTES = 1024 ** 3
const DEFAULT_QEMU = 'qemu-system-x86_64'

const sizeSchema = z.union([z.int().positive(), z.string()]).transform((value, context) => {
  const bytes = typeof value === 'number' ? value : parseSizeBytes(value)
  if (bytes !== null && bytes > 0) return bytes
  context.addIssue({ code: 'custom', message: `"${value}" is not a size such as 8G or 512M` })
  return z.NEVER
})

const MAX_BOOTSTRAP = 64
/** Each takes some 30 MiB: more than moves that one command makes side by side find no use. */
const MAX_PREPARE = 4
const MAX_PERMITTED = 1024

const permitted = z
  .union([z.literal('members'), z.array(z.string().regex(PEER_ID_PATTERN)).max(MAX_PERMITTED)], {
    error: 'who may is "members", or a list of peer ids as `drover mesh ls` shows them',
  })
  .default('members')

const bootstrapAddress = z
  .string()
  .refine(isBootstrapAddress, 'an address to dial is /ip4/IP/tcp/PORT/p2p/PEER or /ip6/IP/tcp/PORT/p2p/PEER')

/** The config file, and the flags over it: the same names mean the same. */
const configSchema = z.strictObject({
  /** How other nodes call this one; default: the host's name. */
  name: z.string().regex(NAME_PATTERN, 'a node name is 1 to 63 letters, digits, ".", "_" or "-"').optional(),
  /** Templates, identity, records; default /var/lib/drover. */
  dataDir: z.string().min(1).optional(),
  /** The local API; QEMU's sockets live beside it. Default /run/drover/agent.sock. */
  socket: z.string().min(1).optional(),
  /** Multiaddrs; default all interfaces, TCP port 4710. */
  listen: z.array(z.string().min(1)).min(1).optional(),
  /** Join token of a mesh; only read at the first start. */
  join: z.string().min(1).optional(),
  /** Multiaddrs with peer ids: nodes that are dialled for as long as this one runs. */
  bootstrap: z.array(bootstrapAddress).max(MAX_BOOTSTRAP).optional(),
  /** Whether nodes of one mesh find each other in a LAN by multicast DNS; default true. */
  mdns: z.boolean().optional(),
  /** Which members may send VMs here, fetch templates from here, command this node's VMs; default: all of them. */
  allow: z.strictObject({ send: permitted, fetch: permitted, command: permitted }).optional(),
  /** What VMs and templates may take together: bytes or `8G`; default: what the machine has. */
  memoryLimitBytes: sizeSchema.optional(),
  /** What templates may take on disk: when one comes, the least useful go. Default: no limit. */
  templateLimitBytes: sizeSchema.optional(),
  /** What pages of VMs that went away may take on disk, for their return; 0: none are kept. Default: 1 GiB. */
  keepLimitBytes: z.union([z.literal(0), sizeSchema]).optional(),
  /** What may come in an hour of templates that VMs of other nodes run from, before one is needed; 0: none. Default: 1 GiB. */
  prefetchLimitBytes: z.union([z.literal(0), sizeSchema]).optional(),
  /** QEMUs kept started on the templates used last, for VMs that may arrive; as memory allows. Default: none. */
  prepare: z.int().min(0).max(MAX_PREPARE).optional(),
  /** QEMU binary, a path or a name in PATH. */
  qemu: z.string().min(1).optional(),
  /** User that QEMU runs as; the agent must be root. Default: the agent's own. */
  qemuUser: z.string().min(1).optional(),
  accel: z.enum(['auto', 'kvm', 'tcg']).optional(),
  logLevel: z.enum(['silent', 'error', 'warn', 'info', 'debug', 'trace']).optional(),
})
export type ConfigFile = z.input<typeof configSchema>

/** What the command line gives; absent means not given. */
export interface AgentFlags extends ConfigFile {
  /** Path of the config file. */
  config?: string
}

export interface AgentConfig {
  name: string
  dataDir: string
  socket: string
  /** One directory per VM with QEMU's sockets and log: short paths, on a tmpfs where /run is one. */
  runDir: string
  listen: string[]
  joinToken: string | null
  bootstrap: string[]
  mdns: boolean
  /** An action that is missing: every member may. */
  allow: Partial<PolicySettings>
  memoryLimitBytes: number | null
  templateLimitBytes: number | null
  keepLimitBytes: number
  /** Per hour. */
  prefetchLimitBytes: number
  /** QEMUs kept ready for VMs that may arrive. */
  prepare: number
  qemuPath: string
  /** Null: QEMU runs as the agent's user. */
  qemuUser: string | null
  accelerator: 'auto' | 'kvm' | 'tcg'
  logLevel: string
}

/**
 * The agent's settings: flags, over the config file, over the defaults.
 *
 * @throws AgentError CONFIG_INVALID naming the key, SOCKET_PATH_TOO_LONG
 */
export async function loadConfig(flags: AgentFlags): Promise<AgentConfig> {
  const { config: file, ...given } = flags
  const settings = {
    ...(file === undefined ? {} : await readConfigFile(file)),
    ...check(given, 'command line'),
  }
  const socket = resolve(settings.socket ?? DEFAULT_SOCKET)
  const runDir = join(dirname(socket), 'vms')
  checkSocketLength(socket, runDir)
  return {
    name: settings.name ?? defaultName(),
    dataDir: resolve(settings.dataDir ?? DEFAULT_DATA_DIR),
    socket,
    runDir,
    listen: settings.listen ?? [DEFAULT_LISTEN],
    joinToken: settings.join ?? null,
    bootstrap: settings.bootstrap ?? [],
    mdns: settings.mdns ?? true,
    allow: settings.allow ?? {},
    memoryLimitBytes: settings.memoryLimitBytes ?? null,
    templateLimitBytes: settings.templateLimitBytes ?? null,
    keepLimitBytes: settings.keepLimitBytes ?? DEFAULT_KEEP_LIMIT_BYTES,
    prefetchLimitBytes: settings.prefetchLimitBytes ?? DEFAULT_PREFETCH_LIMIT_BYTES,
    prepare: settings.prepare ?? 0,
    qemuPath: programPath(settings.qemu ?? DEFAULT_QEMU),
    qemuUser: settings.qemuUser ?? null,
    accelerator: settings.accel ?? 'auto',
    logLevel: settings.logLevel ?? 'info',
  }
}

/** Where the agent keeps files that QEMU opens: templates and overlays, run directories. */
export function passagesOf({ dataDir, socket }: Pick<AgentConfig, 'dataDir' | 'socket'>): string[] {
  return [dataDir, dirname(socket)]
}

async function readConfigFile(path: string): Promise<z.output<typeof configSchema>> {
  let json: unknown
  try {
    json = JSON.parse(await readFile(path, 'utf8'))
  } catch (cause) {
    throw new AgentError('CONFIG_INVALID', `config file ${path}: ${(cause as Error).message}`, {
      cause,
      details: { file: path },
    })
  }
  return check(json, path)
}

function check(value: unknown, from: string): z.output<typeof configSchema> {
  const checked = configSchema.safeParse(value)
  if (checked.success) return checked.data
  const [issue] = checked.error.issues
  const key = issue?.code === 'unrecognized_keys' ? issue.keys.join(', ') : (issue?.path.join('.') ?? '')
  const what = issue?.code === 'unrecognized_keys' ? 'no such setting' : issue?.message
  throw new AgentError('CONFIG_INVALID', `${from}: ${key === '' ? '' : `${key}: `}${what}`, {
    details: { from, key },
  })
}

function checkSocketLength(socket: string, runDir: string): void {
  const longest = [socket, `${runDir}${VM_SOCKET_SUFFIX}`].sort(
    (a, b) => Buffer.byteLength(b) - Buffer.byteLength(a),
  )[0]!
  const bytes = Buffer.byteLength(longest)
  if (bytes <= MAX_SOCKET_PATH_BYTES) return
  throw new AgentError(
    'SOCKET_PATH_TOO_LONG',
    `the sockets beside ${socket} would have paths of ${bytes} bytes, and unix sockets end at ` +
      `${MAX_SOCKET_PATH_BYTES}: choose a --socket in a directory whose path is ${bytes - MAX_SOCKET_PATH_BYTES} shorter`,
    { details: { path: longest, pathBytes: bytes, maxBytes: MAX_SOCKET_PATH_BYTES } },
  )
}

/** QEMU is started in another directory than the agent; a name without a slash is looked up in PATH. */
function programPath(path: string): string {
  return path.includes('/') ? resolve(path) : path
}

function isBootstrapAddress(text: string): boolean {
  const [, family, ip = '', port] =
    /^\/(ip4|ip6)\/([^/]+)\/tcp\/([1-9]\d{0,4})\/p2p\/[1-9A-HJ-NP-Za-km-z]{32,64}$/.exec(text) ?? []
  return (family === 'ip4' ? isIPv4(ip) : isIPv6(ip)) && Number(port) <= 65_535
}

/** The host's name without its domain, with what no name may hold left out. */
function defaultName(): string {
  const [host = ''] = hostname().split('.')
  const name = host.replace(/[^a-z0-9_-]/gi, '').slice(0, 63)
  return NAME_PATTERN.test(name) ? name : 'node'
}
