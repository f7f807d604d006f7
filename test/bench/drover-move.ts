import type { MigrateReply, VmShowReply } from '../../src/agent/api-schema.ts'
import { AgentClient, apiPath } from '../../src/cli/client.ts'
import {
  DEFAULT_PARALLEL_MOVES,
  type MigrationProgress,
  type MigrationReport,
} from '../../src/domain/migration.ts'
import type { AgentUnderTest } from '../support/drover.ts'
import { GuestConsole } from '../support/guest-console.ts'
import type { CloneMemory } from './clone-pages.ts'
import { guestRamUse } from './guest-ram.ts'
import { limitOf, unavoidable } from './limit.ts'
import type { DroverDetails, Run } from './results.ts'
import { type Pair, templateRam } from './setting.ts'
import type { Workload } from './workloads.ts'

export interface MoveRequest {
  names: readonly string[]
  from: AgentUnderTest
  to: AgentUnderTest
  maxBlackoutMs?: number
}

export interface MoveEnd {
  reports: MigrationReport[]
  /** From the request to the last report. */
  wallMs: number
  wireBytes: number
}

/**
 * Moves VMs as `drover migrate` does, without the time that its process takes
 * to start: what the link carries meanwhile is the moves and little else.
 */
export async function moveWithDrover({ link }: Pair, request: MoveRequest): Promise<MoveEnd> {
  const { names, from, to, maxBlackoutMs = null } = request
  const client = new AgentClient({ socket: from.socket, signal: new AbortController().signal })
  const body = {
    vms: names,
    to: to.name,
    maxBandwidthBytesPerSecond: null,
    maxBlackoutMs,
    parallel: DEFAULT_PARALLEL_MOVES,
  }
  const before = await link.wireBytes()
  const startedMs = performance.now()
  const { migrations } = await client.request<MigrateReply>('POST', '/migrations', body)
  const reports = await Promise.all(
    migrations.map((started) => {
      if ('error' in started) throw new Error(`${started.vm}: ${started.error.message}`)
      const path = apiPath`/migrations/${started.migrationId}/watch`
      return client.operation<MigrationProgress, MigrationReport>({ method: 'GET', path }, () => {})
    }),
  )
  const wallMs = performance.now() - startedMs
  return { reports, wallMs, wireBytes: (await link.wireBytes()) - before }
}

/** @throws what the report of a move that wasn't completed says */
export function completed(report: MigrationReport): MigrationReport {
  if (report.outcome === 'completed') return report
  throw new Error(`the move of ${report.vm} ended ${report.outcome}: ${JSON.stringify(report.error)}`)
}

export function detailsOf({ durationsMs, bytes, pages, rounds }: MigrationReport): DroverDetails {
  return { durationsMs, bytes, pages, rounds }
}

let cloneCount = 0

/** Starts a clone of a template, the setting's unless told, and gets it to work. */
export async function startClone(
  agent: AgentUnderTest,
  templateId: string,
  workload: Workload,
): Promise<string> {
  const name = `bench-${++cloneCount}`
  await agent.json('vm', 'run', name, '--template', templateId)
  await onConsole(agent, name, (console) => workload.start(console))
  return name
}

export async function endVm(agent: AgentUnderTest, name: string): Promise<void> {
  await agent.json('vm', 'stop', name, '--force')
  await agent.json('vm', 'rm', name)
}

export async function cloneMemory(agent: AgentUnderTest, name: string): Promise<CloneMemory> {
  const { pid, memoryBytes, template } = await agent.json<VmShowReply>('vm', 'show', name)
  return { pid: pid!, memoryBytes: memoryBytes!, ramPath: templateRam(agent, template) }
}

export async function onConsole<T>(
  agent: AgentUnderTest,
  name: string,
  use: (console: GuestConsole) => Promise<T>,
): Promise<T> {
  const { consoleSocket } = await agent.json<VmShowReply>('vm', 'show', name)
  await using console = await GuestConsole.connect(consoleSocket!)
  return await use(console)
}

export type DroverRun = Pick<Run, 'drover' | 'details' | 'unavoidable' | 'limit'>

/** Moves a VM, and finds what that cost beside what it had to. */
export async function moveClone(
  pair: Pair,
  { name, from, to }: Omit<MoveRequest, 'names'> & { name: string },
): Promise<DroverRun> {
  const needs = await unavoidable(await cloneMemory(from, name))
  const move = await moveWithDrover(pair, { names: [name], from, to })
  const report = completed(move.reports[0]!)
  const arrived = await cloneMemory(to, name)
  const { privateBytes } = await guestRamUse(arrived.pid, arrived.ramPath)
  return {
    drover: {
      totalMs: report.durationsMs.total,
      blackoutMs: report.durationsMs.blackout,
      wireBytes: move.wireBytes,
      destinationBytes: privateBytes,
    },
    details: [detailsOf(report)],
    unavoidable: needs,
    limit: limitOf(needs.changedZstdBytes, pair.link.rate),
  }
}

/** Starts a clone, gets it to work, moves it with drover, checks it, and ends it. */
export async function droverMove(pair: Pair, workload: Workload): Promise<DroverRun> {
  const { source, destination } = pair
  const name = await startClone(source, pair.templateId, workload)
  const run = await moveClone(pair, { name, from: source, to: destination })
  await onConsole(destination, name, (console) => workload.check(console))
  await endVm(destination, name)
  return run
}
