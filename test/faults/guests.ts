/** VMs of the lab, with a guest at work in each. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { VmReply, VmShowReply } from '../../src/agent/api-schema.ts'
import type { FaultAgent } from './fault-agent.ts'
import type { GuestLine } from './guest-line.ts'
import type { Lab } from './lab.ts'
import { TEMPLATE } from './lab.ts'

const LINE_TIMEOUT_MS = 10_000
const BEATING_TIMEOUT_MS = 20_000
const BEATING_POLL_MS = 20
/** That a guest goes on shows in so many new beats: 150 ms. */
const NEW_BEATS = 3

export interface Workload {
  /** Random data whose hash the guest remembers. */
  dataMib: number
  /** More commands, such as `workload hot start`. */
  commands?: readonly string[]
}

/** One record of a VM, and the node that has it. */
export interface Whereabouts {
  agent: FaultAgent
  vm: VmReply
}

export async function startGuest(
  lab: Lab,
  agent: FaultAgent,
  name: string,
  { dataMib, commands = [] }: Workload,
): Promise<void> {
  await agent.client.request('POST', '/vms', { name, template: TEMPLATE, nics: [] })
  lab.watch.forget(name)
  const line = await guestLine(lab, agent, name)
  await line.startBeating(name)
  if (dataMib > 0) await line.run(`workload data ${dataMib} faults`)
  await line.run('workload counter start')
  for (const command of commands) await line.run(command)
}

export async function showGuest({ client }: FaultAgent, name: string): Promise<VmShowReply> {
  return await client.request<VmShowReply>('GET', `/vms/${name}`)
}

/** The console of a VM that the agent has, which runs or stands still. */
export async function guestLine(lab: Lab, agent: FaultAgent, name: string): Promise<GuestLine> {
  const { consoleSocket } = await showGuest(agent, name)
  if (consoleSocket === null) throw new Error(`${name} has no QEMU on ${agent.name}`)
  return await lab.watch.line(consoleSocket, AbortSignal.timeout(LINE_TIMEOUT_MS))
}

/** Every record of the VM on any node whose agent answers. */
export async function find(lab: Lab, name: string): Promise<Whereabouts[]> {
  const lists = await Promise.all(
    lab.agents.map(async (agent) => (await agent.vms()).map((vm) => ({ agent, vm }))),
  )
  return lists.flat().filter(({ vm }) => vm.name === name)
}

export async function removeGuest(agent: FaultAgent, name: string): Promise<void> {
  await agent.client.request('POST', `/vms/${name}/stop`, { force: true })
  await agent.client.request('DELETE', `/vms/${name}`)
}

/** @returns whether the guest says something new */
export async function beats(lab: Lab, name: string): Promise<boolean> {
  const timeline = lab.watch.timeline(name)
  const before = timeline.last?.count ?? 0
  const deadlineMs = performance.now() + BEATING_TIMEOUT_MS
  while ((timeline.last?.count ?? 0) < before + NEW_BEATS) {
    if (performance.now() > deadlineMs) return false
    await sleep(BEATING_POLL_MS)
  }
  return true
}
