/** What must be true of the lab once a move is over and everybody is up again. */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { nodeState } from '../support/node-state.ts'
import type { FaultAgent } from './fault-agent.ts'
import type { Finding } from './findings.ts'
import { beats, guestLine, showGuest, type Whereabouts } from './guests.ts'
import type { Lab } from './lab.ts'

const SETTLE_POLL_MS = 100
/** A state that is passed through is no finding: it must be seen again. */
const STATUS_TIMEOUT_MS = 5_000

/** A node without VMs and moves. */
export interface Baseline {
  templateFiles: string[]
  openFiles: string[]
  listeners: number[]
  ramDigest: string
}

export async function takeBaseline(agent: FaultAgent, templateId: string): Promise<Baseline> {
  const { openFiles, listeners } = await nodeState(agent)
  return {
    templateFiles: await templateFiles(agent),
    openFiles,
    listeners,
    ramDigest: await ramDigest(agent, templateId),
  }
}

/** VMs that must be somewhere; those in `killed` may be stopped, as their QEMU was. */
export interface Expected {
  names: readonly string[]
  killed: ReadonlySet<string>
}

/**
 * Waits until every VM has one owner and nothing else is left of any move.
 *
 * @returns what was still wrong in the end; nothing in the good case
 */
export async function settle(
  lab: Lab,
  expected: Expected,
  { timeoutMs }: { timeoutMs: number },
): Promise<Finding[]> {
  const deadlineMs = performance.now() + timeoutMs
  for (;;) {
    const findings = await lookAround(lab, expected)
    if (findings.length === 0 || performance.now() > deadlineMs) return findings
    await sleep(SETTLE_POLL_MS)
  }
}

async function lookAround(lab: Lab, expected: Expected): Promise<Finding[]> {
  const perNode = await Promise.all(
    lab.agents.map(async (agent) => {
      try {
        const vms = await agent.client.request<{ vms: Whereabouts['vm'][] }>(
          'GET',
          '/vms',
          undefined,
          AbortSignal.timeout(STATUS_TIMEOUT_MS),
        )
        const here = vms.vms.map((vm) => ({ agent, vm }))
        return { here, findings: await leftovers(agent, here, lab.baselines.get(agent.name)!) }
      } catch (error) {
        const text = `${agent.name} does not answer: ${(error as Error).message}`
        return { here: [], findings: [{ kind: 'lost', text } as const] }
      }
    }),
  )
  const records = perNode.flatMap(({ here }) => here)
  const owners = await Promise.all(
    expected.names.map((name) =>
      ownership(
        name,
        records.filter(({ vm }) => vm.name === name),
        expected,
      ),
    ),
  )
  return [...owners.flat(), ...perNode.flatMap(({ findings }) => findings)]
}

async function ownership(
  name: string,
  records: readonly Whereabouts[],
  { killed }: Expected,
): Promise<Finding[]> {
  const said = records
    .map(({ agent, vm }) => `${agent.name} says ${vm.state} in epoch ${vm.epoch}`)
    .join(', ')
  if (records.length === 0) return [{ kind: 'lost', text: `no node has ${name}` }]
  if (records.length > 1) return [{ kind: 'lost', text: `${name} has ${records.length} records: ${said}` }]
  const [{ agent, vm }] = records as [Whereabouts]
  if (vm.state === 'stopped' && killed.has(name)) {
    if (vm.migrationId !== null) return [{ kind: 'lost', text: `${name} is stopped in doubt: ${said}` }]
    return vm.reason ? [] : [{ kind: 'dishonest', text: `${name} is stopped without a reason` }]
  }
  if (vm.state !== 'running') return [{ kind: 'lost', text: `${name}: ${said}; ${vm.reason ?? ''}` }]
  const { runState } = await showGuest(agent, name)
  return runState === 'running' ? [] : [{ kind: 'lost', text: `${name}: ${said}, QEMU says ${runState}` }]
}

/** What a node has beside its VMs, compared with what it had before any. */
async function leftovers(
  agent: FaultAgent,
  here: readonly Whereabouts[],
  baseline: Baseline,
): Promise<Finding[]> {
  const found: string[] = []
  const { memory, counts } = await agent.status()
  if (memory?.reservedBytes !== 0) found.push(`${memory?.reservedBytes} bytes reserved`)
  if (counts.migrationsRunning !== 0) found.push(`${counts.migrationsRunning} moves under way`)

  const owned = new Set(here.map(({ vm }) => vm.pid))
  for (const { pid } of await agent.qemus()) if (!owned.has(pid)) found.push(`QEMU ${pid} of no VM`)
  const runDirs = await agent.runDirs()
  if (runDirs.length > here.length) found.push(`${runDirs.length} run directories, ${here.length} VMs`)
  const vmDirs = await readdir(join(agent.dataDir, 'vms')).catch(() => [])
  const ids = new Set(here.map(({ vm }) => vm.id))
  for (const name of vmDirs) if (!ids.has(name)) found.push(`data/vms/${name}`)
  found.push(...beyond(await templateFiles(agent), baseline.templateFiles))

  const { openFiles, listeners } = await nodeState(agent)
  const ofVms = (path: string) => runDirs.some((name) => path.includes(name))
  found.push(
    ...beyond(
      openFiles.filter((path) => !ofVms(path)),
      baseline.openFiles,
    ),
  )
  found.push(...beyond(listeners.map(String), baseline.listeners.map(String)))
  return found.map((text) => ({ kind: 'leftover', text: `${agent.name}: ${text}` }))
}

/** Each of `now` that isn't among `before`; what is there twice counts twice. */
function beyond(now: readonly string[], before: readonly string[]): string[] {
  const left = [...before]
  return now.filter((item) => {
    const at = left.indexOf(item)
    if (at >= 0) left.splice(at, 1)
    return at < 0
  })
}

/** That the guest goes on, and never was two. */
export async function checkLife(lab: Lab, { vm: { name, state } }: Whereabouts): Promise<Finding[]> {
  const findings: Finding[] = []
  if (state === 'running' && !(await beats(lab, name))) {
    findings.push({ kind: 'wrong-digest', text: `${name} does not go on` })
  }
  for (const anomaly of lab.watch.timeline(name).anomalies) {
    findings.push({ kind: 'double-run', text: `${name}: ${JSON.stringify(anomaly)}` })
  }
  return findings
}

/** That the guest has the memory it had, by hashes that it remembers itself. */
export async function checkMemory(lab: Lab, { agent, vm: { name, state } }: Whereabouts): Promise<Finding[]> {
  if (state !== 'running') return []
  try {
    await (await guestLine(lab, agent, name)).run('workload check')
    return []
  } catch (error) {
    return [{ kind: 'wrong-digest', text: `${name}: ${(error as Error).message}` }]
  }
}

export async function checkTemplate({ templateId, baselines }: Lab, agent: FaultAgent): Promise<Finding[]> {
  if ((await ramDigest(agent, templateId)) === baselines.get(agent.name)!.ramDigest) return []
  return [{ kind: 'template-changed', text: `the RAM file of ${agent.name} is not what it was` }]
}

async function templateFiles({ dataDir }: FaultAgent): Promise<string[]> {
  return (await readdir(join(dataDir, 'templates'), { recursive: true })).sort()
}

async function ramDigest({ dataDir }: FaultAgent, templateId: string): Promise<string> {
  const hash = createHash('sha256')
  await pipeline(createReadStream(join(dataDir, 'templates', templateId, 'ram')), hash)
  return hash.digest('hex')
}
