import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { Logger } from 'pino'
import { DroverError, errorBody } from '../domain/errors.ts'
import { Policy } from '../domain/policy.ts'
import type { MigrationId } from '../domain/vm.ts'
import { Mesh, PeerLines } from '../mesh/index.ts'
import { MigrationService } from '../migration/index.ts'
import { coolDownAfterMove, LinkRates, receivedCoolDown } from '../placement/index.ts'
import { OwnCoordinate } from '../placement/probing/index.ts'
import { openQemuUser, probeQemu, type QemuBinary, type QemuUser } from '../qemu/index.ts'
import { serveTemplate, TEMPLATE_PROTOCOL, TemplateStore } from '../template/index.ts'
import { VmService } from '../vm/index.ts'
import { ApiServer } from './api/server.ts'
import type { StatusReply } from './api-schema.ts'
import { startCaretakers } from './caretakers.ts'
import { placedPeers, startClientProbes } from './client-latency.ts'
import { COMMAND_PROTOCOL } from './commands/ask.ts'
import { CONSOLE_PROTOCOL, serveConsole } from './commands/console.ts'
import { Commands } from './commands/dispatch.ts'
import { MAX_COMMANDS_PER_PEER, serveCommands } from './commands/serve.ts'
import { type AgentConfig, passagesOf } from './config.ts'
import { type Database, openDatabase } from './database.ts'
import { EventHub } from './event-hub.ts'
import { claimSocket } from './local-socket.ts'
import { NodeFactsReader } from './node-facts.ts'
import { NodeSwitches } from './node-switches.ts'
import type { CommandParts, Hypervisor } from './parts.ts'
import { RebalanceMemory } from './rebalance/rebalance-memory.ts'
import { TemplateSpace } from './template-space.ts'

/**
 * One node: opens the database, then brings up templates, VMs, mesh, moves
 * and the local API, each on those before it, and takes them down in reverse.
 * VMs outlive it: the next agent on the data directory adopts them.
 */
export class Agent implements AsyncDisposable {
  readonly #config: AgentConfig
  readonly #log: Logger
  readonly #events = new EventHub()
  /** Events that peers cause: no one of them fills the log. */
  readonly #lines = new PeerLines()
  readonly #linkRates = new LinkRates()
  /** Null until it runs: what happens before is in its first announcement. */
  #mesh: Mesh | null = null
  #running = new AsyncDisposableStack()

  constructor(components: { log: Logger }, config: AgentConfig) {
    this.#log = components.log
    this.#config = config
  }

  /**
   * What fails on the way takes down what was up already.
   *
   * @throws AgentError AGENT_ALREADY_RUNNING, DATA_DIR_UNUSABLE; QemuError QEMU_USER_NOT_USABLE; MeshError when it can't listen or join
   */
  async start(signal: AbortSignal): Promise<void> {
    const config = this.#config
    await using starting = new AsyncDisposableStack()
    await claimSocket(config.socket)
    const db = await openDatabase(config.dataDir)
    starting.defer(() => db.close())
    const switches = await NodeSwitches.load(db)

    const user = config.qemuUser === null ? null : await openQemuUser(config.qemuUser, passagesOf(config))
    const { binary, error: qemuError } = await this.#probe(user, signal)
    const vms: { service: VmService | null } = { service: null }
    let space: TemplateSpace | null = null
    let hypervisor: Hypervisor | null = null
    const templates = new TemplateStore(
      { db },
      {
        dir: join(config.dataDir, 'templates'),
        inUseBy: (id) => vms.service?.namesUsing(id) ?? [],
        onChange: () => {
          this.#mesh?.announce()
          space?.onChange()
          void templates.pageIndex.settled().then(() => hypervisor?.migrations.garbage.workEnded())
        },
        onDiskShort: () => hypervisor?.migrations.keptPages.giveWay() ?? false,
      },
    )
    await templates.start()
    starting.defer(() => templates.stop())

    if (binary !== null) {
      vms.service = await this.#startVms(db, { templates, binary, switches })
      starting.defer(() => vms.service!.stop())
    }
    const policy = new Policy(config.allow, { node: config.name })
    const coordinate = new OwnCoordinate()
    const facts = new NodeFactsReader({ templates, vms: vms.service, binary, switches, coordinate })
    const mesh = await this.#startMesh(db, facts, policy)
    this.#mesh = mesh
    starting.defer(() => mesh.stop())
    coordinate.start({
      peers: () => placedPeers(mesh),
      ping: (peer, bounded) => mesh.ping(peer, { signal: bounded }),
    })
    starting.defer(() => coordinate.stop())

    const limitBytes = vms.service === null ? null : config.templateLimitBytes
    const templateSpace = new TemplateSpace(
      { templates, mesh, events: this.#events, log: this.#log },
      { limitBytes },
    )
    space = templateSpace
    starting.defer(() => templateSpace.stop())

    if (binary !== null) {
      const migrations = await this.#startMigrations(db, {
        mesh,
        policy,
        templates,
        vms: vms.service!,
        binary,
      })
      starting.defer(() => migrations.stop())
      for (const { protocol, handler } of migrations.handlers()) await mesh.handle(protocol, handler)
      const clientProbes = await startClientProbes({ mesh, policy, vms: vms.service!, coordinate }, starting)
      const rebalanceMemory = await RebalanceMemory.load(db)
      const caretakerParts = { config, mesh, templates, switches, rebalanceMemory, events: this.#events }
      const rooms = { binary, vms: vms.service!, migrations, clientProbes, linkRates: this.#linkRates }
      hypervisor = startCaretakers({ ...caretakerParts, ...rooms }, starting)
    } else {
      await mesh.handle(TEMPLATE_PROTOCOL, serveTemplate(templates, { policy }))
    }
    const parts: CommandParts = {
      config,
      log: this.#log,
      events: this.#events,
      mesh,
      policy,
      templates,
      templateSpace,
      qemu: qemuStatus(config, binary, qemuError),
      hypervisor,
      qemuError,
    }
    await mesh.handle(COMMAND_PROTOCOL, serveCommands(parts), { maxInboundStreams: MAX_COMMANDS_PER_PEER })
    await mesh.handle(CONSOLE_PROTOCOL, serveConsole(parts), { maxInboundStreams: MAX_COMMANDS_PER_PEER })
    const commands = new Commands(parts)
    starting.defer(() => commands.stop())
    const api = new ApiServer({ ...parts, commands })
    await api.start()
    starting.defer(() => api.stop())
    this.#running = starting.move()
    this.#events.publish({ kind: 'agent-started', peerId: mesh.peerId, name: mesh.name })
    this.#log.info({ peerId: mesh.peerId, addresses: mesh.addresses(), socket: config.socket }, 'ready')
  }

  /** In reverse order of the start; VMs run on. */
  async stop(): Promise<void> {
    await this.#running.disposeAsync()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }

  /** A node without QEMU still serves its templates and says what is wrong. */
  async #probe(
    user: QemuUser | null,
    signal: AbortSignal,
  ): Promise<{ binary: QemuBinary | null; error: DroverError | null }> {
    const { qemuPath, accelerator } = this.#config
    try {
      const binary = await probeQemu(qemuPath, { accelerator, user, signal })
      this.#log.info(
        {
          qemu: binary.path,
          version: binary.version,
          accelerator: binary.accelerator,
          ...(user === null ? {} : { user: user.name }),
        },
        'QEMU found',
      )
      return { binary, error: null }
    } catch (error) {
      if (!(error instanceof DroverError)) throw error
      this.#log.warn({ code: error.code }, `no VMs on this node: ${error.message}`)
      return { binary: null, error }
    }
  }

  async #startVms(
    db: Database,
    { switches, ...parts }: { templates: TemplateStore; binary: QemuBinary; switches: NodeSwitches },
  ): Promise<VmService> {
    const { dataDir, runDir, memoryLimitBytes, prepare } = this.#config
    await mkdir(runDir, { recursive: true, mode: 0o700 })
    const vms = new VmService(
      {
        db,
        ...parts,
        isDraining: () => switches.isOn('draining'),
        onEvent: (event) => this.#publishAndAnnounce(event),
      },
      { dataDir, runDir, memoryLimitBytes, preparedQemus: prepare },
    )
    await vms.start()
    return vms
  }

  async #startMesh(db: Database, facts: NodeFactsReader, policy: Policy): Promise<Mesh> {
    const { name, listen, dataDir, joinToken, bootstrap, mdns } = this.#config
    const mesh = new Mesh(
      {
        db,
        log: this.#log,
        facts: () => facts.read(),
        inventory: () => facts.inventory(),
        mayRemove: (peerId) => policy.permits('command', peerId),
      },
      { name, listen, dataDir, bootstrap, mdns, ...(joinToken === null ? {} : { joinToken }) },
    )
    mesh.onMember((event) => this.#publish(event))
    mesh.onDirectory((event) => this.#publish(event))
    await mesh.start()
    return mesh
  }

  async #startMigrations(
    db: Database,
    parts: {
      mesh: Mesh
      policy: Policy
      templates: TemplateStore
      vms: VmService
      binary: QemuBinary
    },
  ): Promise<MigrationService> {
    const { mesh, ...others } = parts
    const migrations: MigrationService = new MigrationService(
      {
        db,
        ...others,
        open: (peer, protocol, signal) => mesh.open(peer, protocol, signal),
        peerId: mesh.peerId,
        signatures: mesh.signatures,
        providersOf: (id) => mesh.announcersOf(id),
        coolDownRule: (claimed, source) => coolDownAfterMove(receivedCoolDown(claimed), source, mesh.peerId),
        onEvent: (event) => {
          this.#publish(event)
          if (event.kind === 'migration-ended') void this.#learnRate(migrations, event.migrationId)
        },
      },
      this.#config,
    )
    await migrations.start()
    return migrations
  }

  async #learnRate(migrations: MigrationService, migrationId: MigrationId): Promise<void> {
    // A report that the disk had no room for teaches nothing.
    const ended = await migrations.get(migrationId).catch(() => null)
    if (ended !== null) this.#linkRates.moved(ended.report)
  }

  /** What happens to a VM, others choose by. */
  #publishAndAnnounce(event: { kind: string }): void {
    this.#publish(event)
    this.#mesh?.announce()
  }

  #publish(event: { kind: string; peerId?: string; from?: string }): void {
    this.#events.publish({ ...event })
    const peer = event.from ?? event.peerId
    const line = peer === undefined ? event : this.#lines.admit(peer, event)
    if (line !== null) this.#log.info(line, event.kind)
  }
}

function qemuStatus(
  config: AgentConfig,
  binary: QemuBinary | null,
  error: DroverError | null,
): StatusReply['qemu'] {
  return {
    path: binary?.path ?? config.qemuPath,
    version: binary?.version ?? null,
    accelerator: binary?.accelerator ?? null,
    acceleratorReason: binary?.acceleratorReason ?? null,
    defaultMachineType: binary?.defaultMachineType ?? null,
    error: error === null ? null : errorBody(error),
  }
}
