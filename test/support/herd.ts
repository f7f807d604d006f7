/** Several VMs moved by one command, as a user does it. */
import type { EventReply, StatusReply } from '../../src/agent/api-schema.ts'
import type { MigrationReport } from '../../src/domain/migration.ts'
import { guestRamUse, residentBytes } from '../bench/guest-ram.ts'
import type { AgentUnderTest } from './drover.ts'
import { showVm } from './two-nodes.ts'

/** What `migrate --json` printed of one VM that was not moved at all. */
export interface NotMoved {
  error: { code: string; message: string; details: Record<string, unknown> }
}

export interface HerdEnd {
  code: number
  /** Of the whole command, start of its process included. */
  wallMs: number
  /** In the order in which they ended. */
  reports: MigrationReport[]
  notMoved: NotMoved[]
}

export function parseDocuments(stdout: string): Pick<HerdEnd, 'reports' | 'notMoved'> {
  const lines = stdout.split('\n').filter((line) => line !== '')
  const documents = lines.map((line) => JSON.parse(line) as MigrationReport | NotMoved)
  const isReport = (document: MigrationReport | NotMoved): document is MigrationReport =>
    'outcome' in document
  return {
    reports: documents.filter(isReport),
    notMoved: documents.filter((document): document is NotMoved => !isReport(document)),
  }
}

export async function moveHerd(
  from: AgentUnderTest,
  names: readonly string[],
  to: string,
  ...flags: string[]
): Promise<HerdEnd> {
  const startedMs = performance.now()
  const { code, stdout } = await from.run(['migrate', ...names, '--to', to, ...flags, '--json'])
  return { code, wallMs: performance.now() - startedMs, ...parseDocuments(stdout) }
}

/** What the node remembers to have happened. */
export async function pastEvents(agent: AgentUnderTest): Promise<EventReply[]> {
  const { stdout } = await agent.run(['events', '--recent', '--json'], { timeoutMs: 1_500 })
  return stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as EventReply)
}

/** Names of the VMs that a move has ever touched on this node. */
export async function departedNames(agent: AgentUnderTest): Promise<Set<unknown>> {
  const events = await pastEvents(agent)
  return new Set(events.filter(({ kind }) => kind === 'vm-departing').map(({ name }) => name))
}

export async function reservedBytes(agent: AgentUnderTest): Promise<number> {
  return (await agent.json<Pick<StatusReply, 'memory'>>('status')).memory!.reservedBytes
}

export interface HerdMemory {
  /** Anonymous memory of the guest RAM mappings, of all QEMUs together. */
  privateBytes: number
  /** The template's RAM file in the page cache, once. */
  residentTemplateBytes: number
}

/** Guest memory of VMs of one template on a node. */
export async function guestMemory(
  agent: AgentUnderTest,
  names: readonly string[],
  ramPath: string,
): Promise<HerdMemory> {
  const pids = await Promise.all(names.map(async (name) => (await showVm(agent, name)).pid!))
  const uses = await Promise.all(pids.map((pid) => guestRamUse(pid, ramPath)))
  return {
    privateBytes: uses.reduce((sum, use) => sum + use.privateBytes, 0),
    residentTemplateBytes: await residentBytes(ramPath),
  }
}
