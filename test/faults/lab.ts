/**
 * Agents on hosts of their own that reach each other only through the relay:
 *
 *     node-0 ---+                          Each host is a network namespace that knows the hub's end of its own
 *     node-1 ---+--- hub: relay.ts         link and nothing else. Peers are dialled at the hub's addresses, which
 *     node-2 ---+                          the agents have as `bootstrap`; their real ones lead nowhere.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import type { MemberReply } from '../../src/agent/api-schema.ts'
import { loadIdentity, loadMeshKey } from '../../src/mesh/key-files.ts'
import { drover } from '../support/drover.ts'
import { testGuest } from '../support/guest.ts'
import type { Route } from '../support/relay.ts'
import { Links } from '../support/relay-control.ts'
import { makeStar } from '../support/star-network.ts'
import { FaultAgent } from './fault-agent.ts'
import { GuestWatch } from './guest-watch.ts'
import { type Baseline, takeBaseline } from './invariants.ts'

export const TEMPLATE = 'guest'
const GUEST_MEMORY = '128M'
/** A template of that, and as much again on its way. */
const DISK_BYTES = 320 * 1024 ** 2

const AGENT_PORT = 4710
/** The hub's door from any node to node N is this and N. */
const DOOR_PORT = 4800
/** After a link was cut for long, a node waits up to a minute before it dials again by itself: it is asked to. */
const MEET_TIMEOUT_MS = 90_000
const MEET_RETRY_MS = 200

export interface LabInit {
  nodes: number
  /** Of each agent; null: none. */
  memoryLimitBytes: number | null
}

export class Lab implements AsyncDisposable {
  readonly dir: string
  readonly agents: readonly FaultAgent[]
  readonly links: Links
  readonly watch: GuestWatch
  readonly templateId: string
  /** What each node was before there were VMs. */
  readonly baselines: ReadonlyMap<string, Baseline>
  readonly #cleanup: AsyncDisposableStack

  private constructor(
    parts: Pick<Lab, 'dir' | 'agents' | 'links' | 'watch' | 'templateId' | 'baselines'>,
    cleanup: AsyncDisposableStack,
  ) {
    this.dir = parts.dir
    this.agents = parts.agents
    this.links = parts.links
    this.watch = parts.watch
    this.templateId = parts.templateId
    this.baselines = parts.baselines
    this.#cleanup = cleanup
  }

  /** @returns why there is none, where namespaces can't be made */
  static async start({ nodes, memoryLimitBytes }: LabInit): Promise<Lab | string> {
    await using cleanup = new AsyncDisposableStack()
    const network = await makeStar(nodes)
    if (typeof network === 'string') return network
    cleanup.use(network)
    const { qemu } = await testGuest()
    const dir = await mkdtemp(join(tmpdir(), 'drover-faults-'))
    cleanup.defer(() => rm(dir, { recursive: true, force: true }))

    const names = network.spokes.map((_, i) => `node-${i}`)
    const dataDirs = names.map((name) => join(dir, name, 'data'))
    const bootstrap: string[][] = names.map(() => [])
    const agents = network.spokes.map(
      ({ address, prefix }, i) =>
        new FaultAgent({
          name: names[i]!,
          dir: join(dir, names[i]!),
          prefix,
          diskBytes: DISK_BYTES,
          config: {
            listen: [`/ip4/${address}/tcp/${AGENT_PORT}`],
            bootstrap: bootstrap[i]!,
            mdns: false,
            qemu,
            accel: 'tcg',
            ...(memoryLimitBytes === null ? {} : { memoryLimitBytes }),
          },
        }),
    )
    try {
      for (const { disk } of agents) {
        cleanup.defer(() => disk.unmount())
        await disk.mount()
      }
    } catch (error) {
      return `no small file systems: ${(error as Error).message.trim()}`
    }
    for (const agent of agents) cleanup.use(agent)
    // Identities are made before the first start: each node is told where the others are.
    const meshKey = await loadMeshKey(dataDirs[0]!, null)
    const peerIds: string[] = []
    for (const dataDir of dataDirs) {
      await loadMeshKey(dataDir, meshKey)
      peerIds.push(peerIdFromPrivateKey(await loadIdentity(dataDir)).toString())
    }
    const routes: Route[] = []
    for (const [i, { hubAddress }] of network.spokes.entries()) {
      for (const [j, { address }] of network.spokes.entries()) {
        if (i === j) continue
        const listen = { host: hubAddress, port: DOOR_PORT + j }
        routes.push({ from: names[i]!, to: names[j]!, listen, target: { host: address, port: AGENT_PORT } })
        bootstrap[i]!.push(`/ip4/${listen.host}/tcp/${listen.port}/p2p/${peerIds[j]}`)
      }
    }
    const links = cleanup.use(await Links.start(network.hub.prefix, routes))
    await Promise.all(agents.map((agent) => agent.start()))
    await meet(agents)
    const templateId = await shareTemplate(agents)
    // Not before: making a template needs the console of its guest itself.
    const watch = cleanup.use(new GuestWatch(agents))
    const baselines = new Map<string, Baseline>()
    for (const agent of agents) baselines.set(agent.name, await takeBaseline(agent, templateId))
    return new Lab({ dir, agents, links, watch, templateId, baselines }, cleanup.move())
  }

  agent(name: string): FaultAgent {
    return this.agents.find((agent) => agent.name === name)!
  }

  /** Until every node is connected to every other one. */
  meet(): Promise<void> {
    return meet(this.agents)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#cleanup.disposeAsync()
  }
}

async function meet(agents: readonly FaultAgent[]): Promise<void> {
  const deadlineMs = performance.now() + MEET_TIMEOUT_MS
  for (const agent of agents) {
    for (const other of agents) {
      if (other === agent) continue
      while (!(await reaches(agent, other))) {
        if (performance.now() > deadlineMs) throw new Error(`${agent.name} does not reach ${other.name}`)
        await sleep(MEET_RETRY_MS)
      }
    }
  }
}

/** A ping dials at once, whatever the node's own patience says. */
async function reaches({ client }: FaultAgent, other: FaultAgent): Promise<boolean> {
  try {
    await client.request('POST', `/peers/${other.peerId}/ping`, {}, AbortSignal.timeout(5_000))
    const { members } = await client.request<{ members: MemberReply[] }>('GET', '/mesh/members')
    return members.some(({ peerId, connected }) => peerId === other.peerId && connected)
  } catch {
    return false
  }
}

async function shareTemplate([first, ...others]: readonly FaultAgent[]): Promise<string> {
  const { kernel, initrd, append } = await testGuest()
  const files = ['--kernel', kernel, '--initrd', initrd, '--append', append]
  const ready = ['--memory', GUEST_MEMORY, '--ready', 'drover-guest ready']
  const { id } = await command<{ id: string }>(first!, 'template', 'create', TEMPLATE, ...ready, ...files)
  for (const other of others) {
    await command(other, 'template', 'pull', id, '--from', first!.name, '--name', TEMPLATE)
  }
  return id
}

async function command<T>({ socket }: FaultAgent, ...args: string[]): Promise<T> {
  const { code, stdout, stderr } = await drover(['--socket', socket, ...args, '--json'])
  if (code !== 0) throw new Error(`drover ${args.join(' ')} ended with ${code}: ${stderr}`)
  return JSON.parse(stdout) as T
}
