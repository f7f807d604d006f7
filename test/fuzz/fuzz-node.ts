import { readdir, writeFile } from 'node:fs/promises'
import type { Socket } from 'node:net'
import { join } from 'node:path'
import { Writable } from 'node:stream'
import { generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { Drains } from '../../src/agent/drain/drains.ts'
import { EventHub } from '../../src/agent/event-hub.ts'
import { NodeSwitches } from '../../src/agent/node-switches.ts'
import { Relocations } from '../../src/agent/relocation/relocate.ts'
import { Surroundings } from '../../src/agent/relocation/surroundings.ts'
import { Policy } from '../../src/domain/policy.ts'
import type { TemplateId } from '../../src/domain/template.ts'
import { PeerSignatures } from '../../src/mesh/signatures.ts'
import { MigrationService, type MovableVms } from '../../src/migration/index.ts'
import type { IncomingVm } from '../../src/migration/ports.ts'
import {
  IncomingStream,
  type QemuBinary,
  QemuError,
  type QemuProcess,
  RAM_BLOCK,
} from '../../src/qemu/index.ts'
import { VmService } from '../../src/vm/index.ts'
import type { ChannelHandler, OpenChannel } from '../../src/wire/channel.ts'
import { CHUNKS, fill, machine, never, TestNode } from '../template/fixture.ts'
import { stateFile } from './state-file.ts'
import { FuzzFailure } from './target.ts'

const LIMIT_BYTES = 4 * 1024 ** 3
/** What data directories hold, and nothing else, whatever peers call things. */
const EXPECTED = ['db', 'run', 'templates', 'vms', 'arrived', 'kept']

/** Takes pages as QEMU would, and throws them away. */
async function sink(): Promise<IncomingVm> {
  const qemu = {
    loaded: async () => {},
    explain: async (cause: unknown) => new QemuError('INCOMING_FAILED', 'the sink is gone', { cause }),
  }
  const socket = new Writable({ write: (_chunk, _encoding, done) => done() })
  const stream = new IncomingStream(socket as unknown as Socket, qemu)
  await stream.begin({
    machineType: machine.machineType,
    blocks: [{ name: RAM_BLOCK, usedBytes: machine.memoryBytes }],
  })
  return { process: {} as QemuProcess, stream, templateState: stateFile(machine.memoryBytes) }
}

/**
 * What an agent has behind its handlers: store, VMs and moves, all of it real
 * on a disk of its own. Only QEMU is a sink: moves get as far as their Grant,
 * which fails, as a guest that never ran can't be taken.
 */
export class FuzzNode implements AsyncDisposable {
  readonly binary: QemuBinary
  readonly vms: VmService
  readonly migrations: MigrationService
  readonly peerId: string
  readonly templateId: TemplateId
  readonly #node: TestNode
  readonly #templateFiles: number

  private constructor(
    node: TestNode,
    parts: {
      privateKey: ConstructorParameters<typeof PeerSignatures>[0]
      templateId: TemplateId
      templateFiles: number
      open: OpenChannel
    },
  ) {
    this.#node = node
    this.templateId = parts.templateId
    this.#templateFiles = parts.templateFiles
    this.peerId = peerIdFromPrivateKey(parts.privateKey as never).toString()
    this.binary = {
      path: '/nonexistent/qemu',
      version: '7.2.22',
      machineTypes: [machine.machineType],
      defaultMachineType: machine.machineType,
      accelerator: 'tcg',
      acceleratorReason: null,
    }
    this.vms = new VmService(
      { db: node.db, templates: node.store, binary: this.binary, onEvent: () => {} },
      { dataDir: node.dir, runDir: join(node.dir, 'run'), memoryLimitBytes: LIMIT_BYTES },
    )
    const { vms } = this
    const sunk: MovableVms = Object.assign(Object.create(vms) as VmService, {
      movable: (name: string) => vms.movable(name),
      depart: (name: string, id: string) => vms.depart(name, id),
      inDoubt: () => vms.inDoubt(),
      reserveHerd: (places: Parameters<MovableVms['reserveHerd']>[0]) => vms.reserveHerd(places),
      reserve: async (request: Parameters<MovableVms['reserve']>[0]) =>
        Object.assign(await vms.reserve(request), { launch: sink }),
    })
    const components = {
      db: node.db,
      vms: sunk,
      templates: node.store,
      open: parts.open,
      peerId: this.peerId,
      signatures: new PeerSignatures(parts.privateKey),
      binary: this.binary,
      providersOf: () => [],
      policy: new Policy({}, { node: 'here' }),
      onEvent: () => {},
    }
    this.migrations = new MigrationService(components, { dataDir: node.dir, keepLimitBytes: 2 ** 20 })
  }

  /** @param open - who answers where this node calls back; nobody unless given */
  static async start(
    open: OpenChannel = () => Promise.reject(new QemuError('QMP_CLOSED', 'nobody')),
  ): Promise<FuzzNode> {
    const node = await TestNode.start()
    const draft = await node.store.begin()
    await fill(draft)
    await writeFile(draft.files.state, stateFile(CHUNKS * 2 ** 20))
    const { id } = await draft.seal(machine, 'base', { signal: never() })
    const privateKey = await generateKeyPairFromSeed('Ed25519', Buffer.alloc(32, 99))
    const templateFiles = (await readdir(node.templatesDir)).length
    const fuzzNode = new FuzzNode(node, { privateKey, templateId: id, templateFiles, open })
    await fuzzNode.vms.start()
    await fuzzNode.migrations.start()
    return fuzzNode
  }

  /** Gives VMs away that it never has, to a mesh that nobody is in. */
  async drains(): Promise<Drains> {
    const { vms, migrations, binary } = this
    const events = new EventHub()
    const surroundings = new Surroundings({
      mesh: { directory: () => [], announcersOf: () => [] },
      vms,
      binary,
      templates: this.#node.store,
      latencySamples: () => [],
      bandwidthBytesPerSecond: () => null,
    })
    const relocations = new Relocations({ surroundings, vms, migrations })
    const switches = await NodeSwitches.load(this.#node.db)
    return new Drains({ switches, vms, relocations, events, announce: () => {} }, { node: 'here' })
  }

  handler(protocol: string): ChannelHandler {
    return this.migrations.handlers().find((entry) => entry.protocol === protocol)!.handler
  }

  /** No memory kept, no run directory, no template, no name of a peer's making. */
  async checkNothingLeft(): Promise<void> {
    const { reservedBytes } = this.vms.memory()
    if (reservedBytes > 0) throw new FuzzFailure(`${reservedBytes} bytes are still reserved`)
    const unexpected = (await readdir(this.#node.dir)).filter((name) => !EXPECTED.includes(name))
    const ofVms = await Promise.all(
      ['run', 'arrived', 'kept'].map((dir) => readdir(join(this.#node.dir, dir))),
    )
    const left = [...unexpected, ...ofVms.flat()]
    if (left.length > 0) throw new FuzzFailure(`left on disk: ${left.join(', ')}`)
    const templateFiles = (await readdir(this.#node.templatesDir)).length
    if (templateFiles !== this.#templateFiles) throw new FuzzFailure(`${templateFiles} entries in the store`)
    if (this.vms.list().length > 0) throw new FuzzFailure('a VM came out of nothing')
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.migrations.stop()
    await this.vms.stop()
    await this.#node[Symbol.asyncDispose]()
  }
}
