/** Two agents of one mesh, a template on the first, and a user's steps with VMs on them. */
import { expect, vi } from 'vitest'
import type { VmShowReply } from '../../src/agent/api-schema.ts'
import type { MigrationReport } from '../../src/domain/migration.ts'
import { AgentUnderTest } from './drover.ts'
import { testGuest } from './guest.ts'
import { GuestConsole } from './guest-console.ts'
import { UNPRIVILEGED } from './unprivileged.ts'

/** The template's name on the node that made it. */
export const TEMPLATE = 'guest'

/** Root without the capability by which it may read other users' processes. */
const WITHOUT_PTRACE = ['setpriv', '--bounding-set', '-sys_ptrace']

const MEET_TIMEOUT_MS = 15_000
/** The guest counts ten times a second; on two busy cores it may stand still for a while. */
const COUNTING_TIMEOUT_MS = 15_000

export interface TwoNodesSettings {
  /** Of the guest, as `--memory` takes it. */
  memory: string
  /** What the guest fills its memory with before it is ready. */
  fillMib?: number
  /** Whether the second node has the template before anything moves. */
  templateOnBoth?: boolean
  /** More flags of the second agent. */
  flags?: readonly string[]
  /** Instead of the tests' own. */
  qemu?: string
  /** Both run QEMU as another user, whose processes they may not look into. */
  isMemoryClosed?: boolean
}

export class TwoNodes implements AsyncDisposable {
  readonly source: AgentUnderTest
  readonly destination: AgentUnderTest
  readonly templateId: string
  readonly #others: AgentUnderTest[] = []

  private constructor(source: AgentUnderTest, destination: AgentUnderTest, templateId: string) {
    this.source = source
    this.destination = destination
    this.templateId = templateId
  }

  static async start(settings: TwoNodesSettings): Promise<TwoNodes> {
    const { memory, fillMib = 0, templateOnBoth = true, flags = [], qemu, isMemoryClosed = false } = settings
    await using starting = new AsyncDisposableStack()
    const { kernel, initrd, append } = await testGuest()
    const closed = isMemoryClosed ? ['--qemu-user', UNPRIVILEGED] : []
    const prefix = isMemoryClosed ? WITHOUT_PTRACE : []
    const source = starting.use(await startAgent('edge-1', { more: closed, prefix, qemu }))
    const destination = starting.use(
      await startAgent('edge-2', { member: source, more: [...closed, ...flags], prefix, qemu }),
    )
    const fill = fillMib === 0 ? '' : ` drover.fill=${fillMib}`
    const { id } = await source.json<{ id: string }>(
      ...['template', 'create', TEMPLATE, '--memory', memory, '--ready', 'drover-guest ready'],
      ...['--kernel', kernel, '--initrd', initrd, '--append', append + fill],
    )
    if (templateOnBoth) await destination.json('template', 'pull', id, '--from', source.name)
    starting.move()
    return new TwoNodes(source, destination, id)
  }

  /** One more node of the mesh, ended with the others. */
  async join(name: string, flags: readonly string[]): Promise<AgentUnderTest> {
    const agent = await startAgent(name, { member: this.source, more: flags })
    this.#others.push(agent)
    return agent
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const agents = [...this.#others, this.destination, this.source]
    await Promise.all(agents.map((agent) => agent[Symbol.asyncDispose]()))
  }
}

async function startAgent(
  name: string,
  {
    member,
    more = [],
    prefix = [],
    qemu,
  }: {
    member?: AgentUnderTest
    more?: readonly string[]
    prefix?: readonly string[]
    qemu?: string | undefined
  } = {},
): Promise<AgentUnderTest> {
  const flags = ['--accel', 'tcg', '--qemu', qemu ?? (await testGuest()).qemu, ...more]
  if (member === undefined) return AgentUnderTest.start({ name, flags, prefix })
  const { token } = await member.json<{ token: string }>('mesh', 'token')
  const agent = await AgentUnderTest.start({ name, flags: [...flags, '--join', token], prefix })
  await met(member, agent)
  return agent
}

/** Until each of two agents reaches the other. */
export async function met(one: AgentUnderTest, other: AgentUnderTest): Promise<void> {
  const options = { timeout: MEET_TIMEOUT_MS, interval: 250 }
  await vi.waitFor(() => one.json('peer', 'ping', other.name), options)
  await vi.waitFor(() => other.json('peer', 'ping', one.name), options)
}

export async function runVm(agent: AgentUnderTest, name: string): Promise<void> {
  await agent.json('vm', 'run', name, '--template', TEMPLATE)
}

export async function showVm(agent: AgentUnderTest, name: string): Promise<VmShowReply> {
  return agent.json<VmShowReply>('vm', 'show', name)
}

export async function removeVm(agent: AgentUnderTest, name: string): Promise<void> {
  await agent.json('vm', 'stop', name, '--force')
  await agent.json('vm', 'rm', name)
}

export async function vmNames(agent: AgentUnderTest): Promise<string[]> {
  const { vms } = await agent.json<{ vms: { name: string }[] }>('vm', 'ls')
  return vms.map(({ name }) => name)
}

/** Moves one VM, which must go well. */
export async function move(
  from: AgentUnderTest,
  name: string,
  to: AgentUnderTest,
  ...flags: string[]
): Promise<MigrationReport> {
  const report = await from.json<MigrationReport>('migrate', name, '--to', to.name, ...flags)
  expect(report).toMatchObject({ vm: name, outcome: 'completed', digest: 'verified', error: null })
  return report
}

/** A command in the guest of a VM that runs on `agent`; its output. */
export async function inGuest(agent: AgentUnderTest, name: string, command: string): Promise<string> {
  const { consoleSocket } = await showVm(agent, name)
  await using console = await GuestConsole.connect(consoleSocket!)
  return await console.run(command)
}

/** That the VM runs on `agent`, and that its guest's counter goes on from `before`; @returns where it is now */
export async function expectCounting(
  agent: AgentUnderTest,
  name: string,
  before: number,
  { state = 'running' }: { state?: 'running' | 'departing' } = {},
): Promise<number> {
  const vm = await showVm(agent, name)
  expect(vm).toMatchObject({ state, runState: 'running' })
  await using console = await GuestConsole.connect(vm.consoleSocket!)
  const read = async () => Number(await console.run('workload counter read'))
  const first = await read()
  expect(first).toBeGreaterThanOrEqual(before)
  await expect.poll(read, { timeout: COUNTING_TIMEOUT_MS }).toBeGreaterThan(first)
  return first
}
