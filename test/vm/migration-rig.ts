import type { MigrationReport } from '../../src/domain/migration.ts'
import { Policy } from '../../src/domain/policy.ts'
import {
  type MigrationComponents,
  type MigrationEvent,
  MigrationService,
  type MovableVms,
} from '../../src/migration/index.ts'
import type { CoolDownRule } from '../../src/migration/ports.ts'
import type { Channel, ChannelHandler } from '../../src/wire/channel.ts'
import { channelPair } from '../support/channel-pair.ts'
import { SignaturesByName } from '../support/signatures.ts'
import { Bench, type TestNode } from './vm-fixture.ts'

/** Long enough for an answer that comes, short enough to wait for where none does. */
const DOUBT_REPORT_MS = 3_000

/** A node that can move VMs, over channels in memory: what the network does to them is the test's choice. */
export interface RigNode {
  node: TestNode
  migrations: MigrationService
}

/** Gets each channel that is opened, and may hand on another: one that breaks, say. */
export type Tamper = (protocol: string, channel: Channel) => Channel

export interface RigOptions {
  /** Wraps a node's VMs, to look at or hold back what a move does to them. */
  wrap?: (vms: MovableVms, name: 'a' | 'b') => MovableVms
  tamper?: Tamper
  /** Of both nodes. */
  coolDownRule?: CoolDownRule
  /** What node b keeps ready. */
  preparedQemus?: number
  /** Instead of the tests' own. */
  qemu?: string
}

/** Two benches with one template, and moves between them. */
export class MigrationRig implements AsyncDisposable {
  a: RigNode
  b: RigNode
  readonly #benches: Bench[]
  readonly #wrap: (vms: MovableVms, name: 'a' | 'b') => MovableVms
  readonly #rule: Pick<RigOptions, 'coolDownRule'>
  readonly #stopping = new AbortController()
  readonly signatures = new SignaturesByName()
  readonly events: ({ node: 'a' | 'b' } & MigrationEvent)[] = []
  /** Set between moves to change what happens to the next channels. */
  tamper: Tamper = (_, channel) => channel

  private constructor(benches: Bench[], a: TestNode, b: TestNode, options: RigOptions) {
    this.#benches = benches
    if (options.tamper !== undefined) this.tamper = options.tamper
    this.#wrap = options.wrap ?? ((vms) => vms)
    this.#rule = options.coolDownRule === undefined ? {} : { coolDownRule: options.coolDownRule }
    this.a = { node: a, migrations: this.#service('a', a) }
    this.b = { node: b, migrations: this.#service('b', b) }
  }

  static async start(options: RigOptions = {}): Promise<MigrationRig> {
    const source = await Bench.create({ qemu: options.qemu })
    const destination = await Bench.empty(source.binary)
    const [a, b] = await Promise.all([
      source.start(),
      destination.start({ preparedQemus: options.preparedQemus ?? 0 }),
    ])
    const rig = new MigrationRig([source, destination], a, b, options)
    await Promise.all([rig.a.migrations.start(), rig.b.migrations.start()])
    return rig
  }

  #service(name: 'a' | 'b', node: TestNode): MigrationService {
    const components: MigrationComponents = {
      db: node.db,
      vms: this.#wrap(node.vms, name),
      templates: node.templates,
      binary: this.#benches[0]!.binary,
      peerId: name,
      signatures: this.signatures.of(name),
      providersOf: () => [],
      policy: new Policy({}, { node: name }),
      ...this.#rule,
      onEvent: (event) => this.events.push({ node: name, ...event }),
      open: async (peer, protocol) => this.tamper(protocol, this.dial(name, peer, protocol)),
    }
    const { dataDir } = this.#benches[name === 'a' ? 0 : 1]!
    return new MigrationService(components, {
      dataDir,
      keepLimitBytes: 2 ** 30,
      doubtReportMs: DOUBT_REPORT_MS,
    })
  }

  #handler(peer: string, protocol: string): ChannelHandler {
    const { migrations } = peer === 'a' ? this.a : this.b
    return migrations.handlers().find((entry) => entry.protocol === protocol)!.handler
  }

  /** A channel to a node, as any peer may open one. */
  dial(as: string, to: string, protocol: string): Channel {
    const [ours, theirs] = channelPair({ peers: [as, to] })
    const handler = this.#handler(to, protocol)
    handler(theirs, this.#stopping.signal).catch((error: Error) => theirs.abort(error))
    return ours
  }

  /** Moves a VM from a to b, or back. */
  async move(
    vm: string,
    from: RigNode,
    to: 'a' | 'b',
    { maxBlackoutMs = null }: { maxBlackoutMs?: number | null } = {},
  ): Promise<MigrationReport> {
    const [start] = from.migrations.migrate({
      vms: [vm],
      to,
      maxBandwidthBytesPerSecond: null,
      maxBlackoutMs,
      parallel: 1,
    })
    if ('error' in start!) throw start.error
    return start!.report
  }

  /** As if the agent had been stopped and started; its VMs live on meanwhile. */
  async restart(name: 'a' | 'b'): Promise<void> {
    const bench = this.#benches[name === 'a' ? 0 : 1]!
    await this[name].migrations.stop()
    await this[name].node.stop()
    const node = await bench.start()
    this[name] = { node, migrations: this.#service(name, node) }
    await this[name].migrations.start()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([this.a.migrations.stop(), this.b.migrations.stop()])
    this.#stopping.abort(new Error('the test ends'))
    await Promise.all([this.a.node.stop(), this.b.node.stop()])
    for (const bench of this.#benches) await bench[Symbol.asyncDispose]()
  }
}
