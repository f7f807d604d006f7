/** One move with one fault at one boundary, and what must be true after it. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { MigrateReply, MigrationReply } from '../../src/agent/api-schema.ts'
import type { Failpoint } from './failpoint-control.ts'
import type { FaultAgent } from './fault-agent.ts'
import type { Duration, Fault, Scene } from './faults.ts'
import { errorText, type Finding } from './findings.ts'
import { find } from './guests.ts'
import { checkLife, checkMemory, checkTemplate, settle } from './invariants.ts'
import type { Lab } from './lab.ts'

/** A move on an intact link takes less than two seconds; on a slow one it may take some. */
const HIT_TIMEOUT_MS = 30_000
/** Asking about a Grant goes on every 30 s at the latest, and a question that gets no answer takes 10 s. */
const SETTLE_TIMEOUT_MS = 75_000
/** The report of a move in doubt comes after TIMEOUTS_MS.doubtReport. */
const REPORT_TIMEOUT_MS = 60_000
const POLL_MS = 25

/** What a fault at a boundary must lead to, where that is fixed. */
export interface Expectation {
  owner: 'source' | 'destination' | null
  outcome: string | null
  errorCode: string | null
}

/** At a boundary, with one agent held there; or so long after the move was asked for, with nobody held. */
export type FaultTime = Failpoint | { afterMs: number }

export interface FaultCase {
  fault: Fault
  at: FaultTime
  expected: Expectation
}

export function caseName({ fault, at }: FaultCase): string {
  return `${fault.name} ${'afterMs' in at ? `after ${at.afterMs} ms` : `at ${at.side}:${at.boundary}`}`
}

export interface CaseEnd {
  name: string
  /** What the move's report said; `no report` when its agent died with it. */
  outcome: string
  owner: 'source' | 'destination' | 'nobody'
  ms: number
  findings: Finding[]
}

/** Where the VM is. */
export interface Stage {
  lab: Lab
  vm: string
  /** VMs that are not moved, and must be where they were. */
  others: readonly string[]
  source: FaultAgent
  destination: FaultAgent
  random: () => number
}

/** @param thorough - whether all of the guest's memory and the templates are looked at, which takes a second */
export async function runCase(
  stage: Stage,
  faultCase: FaultCase,
  { thorough }: { thorough: boolean },
): Promise<CaseEnd> {
  const { lab, vm, others, source, destination } = stage
  const startedMs = performance.now()
  const { fault } = faultCase
  const scene = await setScene(stage)
  const findings: Finding[] = []

  await fault.prepare?.(scene)
  const move = await meetFault(scene, faultCase, findings)
  await last(fault.duration, move.ended)
  try {
    await fault.undo(scene)
  } catch (error) {
    findings.push({ kind: 'unexpected', text: `undoing it: ${errorText(error)}` })
  }
  await restartCrashed(lab, findings)

  const killed = new Set(fault.killsVm ? [vm] : [])
  findings.push(...(await settle(lab, { names: [vm, ...others], killed }, { timeoutMs: SETTLE_TIMEOUT_MS })))
  const report = await move.report()
  const records = await find(lab, vm)
  const owner = ownerAmong(
    stage,
    records.map(({ agent }) => agent),
  )
  for (const record of records) {
    findings.push(...(await checkLife(lab, record)))
    if (thorough) findings.push(...(await checkMemory(lab, record)))
  }
  if (thorough) {
    for (const agent of [source, destination]) findings.push(...(await checkTemplate(lab, agent)))
  }
  findings.push(...judge(faultCase.expected, { report, owner, mayLackReport: fault.killsReport }))
  const outcome = report === null ? 'no report' : describe(report)
  return { name: caseName(faultCase), outcome, owner, ms: performance.now() - startedMs, findings }
}

/** Starts the move, and does the fault where it is due. */
async function meetFault(scene: Scene, { at, fault }: FaultCase, findings: Finding[]): Promise<Move> {
  if ('afterMs' in at) {
    const move = await startMove(scene)
    await sleep(at.afterMs, undefined, { signal: move.ended }).catch(() => {})
    await fault.inject(scene)
    return move
  }
  const { failpoints } = scene[at.side]
  await failpoints.arm(at)
  const move = await startMove(scene)
  const isHeld = await failpoints.hit(AbortSignal.any([AbortSignal.timeout(HIT_TIMEOUT_MS), move.ended]))
  if (!isHeld) findings.push({ kind: 'unexpected', text: 'the move never came to that boundary' })
  await fault.inject(scene)
  await failpoints.release()
  return move
}

function ownerAmong(
  { source, destination }: Pick<Stage, 'source' | 'destination'>,
  agents: readonly FaultAgent[],
): CaseEnd['owner'] {
  if (agents.includes(source)) return 'source'
  return agents.includes(destination) ? 'destination' : 'nobody'
}

async function setScene({ lab, vm, source, destination, random }: Stage): Promise<Scene> {
  const [record] = (await source.vms()).filter(({ name }) => name === vm)
  const destinationQemus = new Set((await destination.qemus()).map(({ pid }) => pid))
  return { lab, vm, source, destination, random, sourceQemuPid: record!.pid!, destinationQemus }
}

interface Move {
  /** Aborted once the move has its report, or its agent is gone. */
  ended: AbortSignal
  /** Corrected meanwhile, where the first one said "in doubt"; null when the source knows of no such move. */
  report: () => Promise<MigrationReply | null>
}

/** Starts it and doesn't wait: the agent may be held before it has answered. */
export async function startMove({
  source: { client },
  destination,
  vm,
}: Pick<Scene, 'source' | 'destination' | 'vm'>): Promise<Move> {
  const list = async () =>
    (await client.request<{ migrations: MigrationReply[] }>('GET', '/migrations')).migrations
  const before = new Set((await list()).map(({ migrationId }) => migrationId))
  const limits = { parallel: 1, maxBandwidthBytesPerSecond: null, maxBlackoutMs: null }
  const started = client
    .request<MigrateReply>('POST', '/migrations', { vms: [vm], to: destination.peerId, ...limits })
    .then(
      ({ migrations: [first] }) => (first !== undefined && 'migrationId' in first ? first.migrationId : null),
      // The agent died before it had answered: a move may have begun all the same.
      () => null,
    )
  const report = async (): Promise<MigrationReply | null> => {
    const id = await started
    if (id === null) return (await list()).find(({ migrationId }) => !before.has(migrationId)) ?? null
    try {
      return await client.request<MigrationReply>('GET', `/migrations/${id}`)
    } catch (error) {
      if ((error as { code?: string }).code === 'MIGRATION_NOT_FOUND') return null
      throw error
    }
  }
  const over = new AbortController()
  const watching = async (): Promise<void> => {
    const deadlineMs = performance.now() + REPORT_TIMEOUT_MS
    while (performance.now() < deadlineMs && (await report())?.running) await sleep(POLL_MS)
  }
  // An agent that is gone ends the watch too.
  void watching()
    .catch(() => {})
    .finally(() => over.abort())
  return { ended: over.signal, report }
}

async function last({ ms, untilReport }: Duration, ended: AbortSignal): Promise<void> {
  await sleep(ms, undefined, untilReport ? { signal: ended } : {}).catch(() => {})
}

/** As a service manager does. */
export async function restartCrashed(lab: Lab, findings: Finding[]): Promise<void> {
  for (const agent of lab.agents) {
    if (!agent.hasCrashed) continue
    findings.push({ kind: 'unexpected', text: `${agent.name} ended by itself:\n${agent.log.slice(-1500)}` })
    await agent.start()
  }
}

function describe({ outcome, error }: MigrationReply): string {
  return error === null ? outcome : `${outcome} ${error.code}`
}

/** Whether the report agrees with where the VM is, and both with what this fault must lead to. */
export function judge(
  expected: Expectation,
  {
    report,
    owner,
    mayLackReport,
  }: { report: MigrationReply | null; owner: CaseEnd['owner']; mayLackReport: boolean },
): Finding[] {
  const findings: Finding[] = []
  if (report === null) {
    if (!mayLackReport) findings.push({ kind: 'dishonest', text: 'the source knows of no such move' })
  } else {
    const truth = owner === 'destination' ? report.outcome === 'completed' : report.outcome !== 'completed'
    if (!truth || report.outcome === 'in-doubt') {
      findings.push({
        kind: 'dishonest',
        text: `the report says ${describe(report)}, the VM is at the ${owner}`,
      })
    }
    if (report.error?.code === 'INTERNAL') {
      findings.push({ kind: 'unexpected', text: `${describe(report)} ${report.error.message}` })
    }
    if (expected.outcome !== null && report.outcome !== expected.outcome) {
      findings.push({
        kind: 'unexpected',
        text: `${describe(report)} ${report.error?.message ?? ''}, not ${expected.outcome}`,
      })
    }
    if (expected.errorCode !== null && report.error?.code !== expected.errorCode) {
      findings.push({ kind: 'unexpected', text: `${describe(report)}, not ${expected.errorCode}` })
    }
  }
  if (expected.owner !== null && owner !== expected.owner) {
    findings.push({ kind: 'unexpected', text: `the VM is at the ${owner}, not at the ${expected.owner}` })
  }
  return findings
}
