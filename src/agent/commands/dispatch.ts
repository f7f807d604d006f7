import { setTimeout as sleep } from 'node:timers/promises'
import { DroverError } from '../../domain/errors.ts'
import type { MigrationId, PeerIdText } from '../../domain/vm.ts'
import { VmError } from '../../vm/index.ts'
import type { CommandKind } from '../../wire/command-messages.ts'
import { apiError } from '../api/request.ts'
import type { MeshVmReply, MigrateReply } from '../api-schema.ts'
import { AgentError } from '../errors.ts'
import { meshVms } from '../mesh-inventory.ts'
import type { CommandParts } from '../parts.ts'
import { ask } from './ask.ts'
import type { Command, CommandOptions, CommandResults } from './command.ts'
import { ConsoleTunnels, ownConsole } from './console.ts'
import { execute } from './execute.ts'

/** Nodes announce a VM that has come or gone at once, and no more often than every 500 ms. */
const NEWS_MS = 750
/** Moves that were begun on other nodes from here, remembered so that they can be watched and cancelled. */
const MAX_REMOTE_MOVES = 1024

type MoveCommandKind = 'watch' | 'report' | 'cancel' | 'resolve'
type NodeCommandKind = 'drain' | 'stopDrain' | 'ready'
type VmCommandKind = Exclude<CommandKind, MoveCommandKind | NodeCommandKind | 'migrate'>

/**
 * Commands given on this node. A VM that is here is handled here; of any other
 * the directory knows the node, and that one is asked.
 */
export class Commands {
  readonly #parts: CommandParts
  readonly #remoteMoves = new Map<MigrationId, PeerIdText>()
  readonly #tunnels: ConsoleTunnels

  constructor(parts: CommandParts) {
    this.#parts = parts
    this.#tunnels = new ConsoleTunnels(parts)
  }

  /**
   * A command on one VM.
   *
   * @throws what the VM's node says; VmError VM_NOT_FOUND; AgentError VM_AMBIGUOUS, OWNER_UNREACHABLE
   */
  async onVm<K extends VmCommandKind>(
    command: Command<K>,
    options: CommandOptions<K>,
  ): Promise<CommandResults[K]> {
    const { vm } = command as { vm: string }
    return this.#where(vm, options.signal, (owner) =>
      owner === null ? execute(this.#parts, command, options) : this.#ask(owner, command, options),
    )
  }

  /**
   * A unix socket on this node that carries a VM's serial console.
   *
   * @throws as `onVm`; VmError VM_STOPPED
   */
  async console(vm: string, options: { signal: AbortSignal }): Promise<{ consoleSocket: string }> {
    const consoleSocket = await this.#where(vm, options.signal, (owner) =>
      owner === null ? ownConsole(this.#parts, vm) : this.#tunnels.open(owner, vm, options.signal),
    )
    return { consoleSocket }
  }

  async stop(): Promise<void> {
    await this.#tunnels.stop()
  }

  /** @param act - gets the VM's node, null when that is this one */
  async #where<T>(
    vm: string,
    signal: AbortSignal,
    act: (owner: PeerIdText | null) => Promise<T>,
  ): Promise<T> {
    const attempt = async () => act(this.#isHere(vm) ? null : await this.#owner(vm, signal))
    try {
      return await attempt()
    } catch (error) {
      if (!isNotFound(error)) throw error
      // It has just come or moved: its node says so about now.
      await sleep(NEWS_MS, undefined, { signal })
      return attempt()
    }
  }

  /** Moves VMs, each from where it is: one herd for each node that has some of them. */
  async migrate(command: Command<'migrate'>, options: CommandOptions<'migrate'>): Promise<MigrateReply> {
    const herds = new Map<PeerIdText | null, number[]>()
    const starts: MigrateReply['migrations'] = []
    for (const [i, vm] of command.vms.entries()) {
      try {
        const owner = await this.#where(vm, options.signal, async (found) => found)
        herds.set(owner, [...(herds.get(owner) ?? []), i])
      } catch (error) {
        starts[i] = { vm, error: apiError(error).error }
      }
    }
    const started = [...herds].map(async ([owner, places]) => {
      const herd = { ...command, vms: places.map((i) => command.vms[i]!) }
      const found = await this.#startHerd(owner, herd, options)
      for (const [at, i] of places.entries()) starts[i] = found[at]!
    })
    await Promise.all(started)
    return { migrations: starts }
  }

  /** @returns one answer for each of its VMs, in order */
  async #startHerd(
    owner: PeerIdText | null,
    herd: Command<'migrate'>,
    options: CommandOptions<'migrate'>,
  ): Promise<MigrateReply['migrations']> {
    // This node's refusal of all is the command's; another's is that of its VMs.
    if (owner === null) return (await execute(this.#parts, herd, options)).migrations
    try {
      const { migrations } = await this.#ask(owner, herd, options)
      if (migrations.map(({ vm }) => vm).join() !== herd.vms.join()) {
        throw new AgentError('ANSWER_MALFORMED', `node ${owner} answered for other VMs`, {
          details: { owner },
        })
      }
      for (const start of migrations) if ('migrationId' in start) this.#remember(start.migrationId, owner)
      return migrations
    } catch (error) {
      options.signal.throwIfAborted()
      return herd.vms.map((vm) => ({ vm, error: apiError(error).error }))
    }
  }

  /** A command on a move that was begun from here. This node's own come first, whatever others call theirs. */
  async onMove<K extends MoveCommandKind>(
    command: Command<K>,
    options: CommandOptions<K>,
  ): Promise<CommandResults[K]> {
    const { migrationId } = command as { migrationId: MigrationId }
    const owner = this.#remoteMoves.get(migrationId)
    if (owner === undefined || (await this.#isOwnMove(migrationId)))
      return execute(this.#parts, command, options)
    return this.#ask(owner, command, options)
  }

  /**
   * A command on a node.
   *
   * @param peer - peer id; null: this one
   * @throws what that node says; AgentError OWNER_UNREACHABLE
   */
  onNode<K extends NodeCommandKind>(
    command: Command<K>,
    peer: PeerIdText | null,
    options: CommandOptions<K>,
  ): Promise<CommandResults[K]> {
    if (peer === null || peer === this.#parts.mesh.peerId) return execute(this.#parts, command, options)
    return this.#ask(peer, command, options)
  }

  async #isOwnMove(migrationId: MigrationId): Promise<boolean> {
    const { hypervisor } = this.#parts
    return (
      hypervisor?.migrations.get(migrationId).then(
        () => true,
        () => false,
      ) ?? false
    )
  }

  #ask<K extends CommandKind>(
    owner: PeerIdText,
    command: Command<K>,
    options: CommandOptions<K>,
  ): Promise<CommandResults[K]> {
    const { mesh } = this.#parts
    return ask((peer, protocol, signal) => mesh.open(peer, protocol, signal), owner, command, options)
  }

  #isHere(vm: string): boolean {
    const records = this.#parts.hypervisor?.vms.list() ?? []
    return records.some(({ spec }) => spec.name === vm || spec.id === vm)
  }

  /** @throws VmError VM_NOT_FOUND when nobody has it; AgentError VM_AMBIGUOUS */
  async #owner(vm: string, signal: AbortSignal): Promise<PeerIdText> {
    const { mesh } = this.#parts
    const { vms } = await meshVms(mesh, signal)
    const all = vms.filter(({ name, id, peerId }) => peerId !== mesh.peerId && (name === vm || id === vm))
    const reachable = all.filter(({ state }) => state !== 'unreachable')
    // Of a node that fell silent it is better told that it doesn't answer than that nobody has such a VM.
    const found = reachable.length > 0 ? reachable : all
    // Of two nodes that claim one VM the one with the higher epoch has it.
    const byId = new Map<string, MeshVmReply>()
    for (const claim of found) {
      if ((byId.get(claim.id)?.epoch ?? -1) < claim.epoch) byId.set(claim.id, claim)
    }
    const [owner, ...others] = byId.values()
    if (owner === undefined) {
      throw new VmError(
        'VM_NOT_FOUND',
        `no node of this mesh has a VM '${vm}': see \`drover vm ls --mesh\``,
        {
          details: { name: vm },
        },
      )
    }
    if (others.length === 0) return owner.peerId
    const nodes = [owner, ...others].map(({ id, node }) => ({ id, node }))
    const where = nodes.map(({ node }) => node).join(', ')
    throw new AgentError('VM_AMBIGUOUS', `there are VMs called ${vm} on ${where}: use the id`, {
      details: { vm, nodes },
    })
  }

  #remember(migrationId: MigrationId, owner: PeerIdText): void {
    this.#remoteMoves.set(migrationId, owner)
    const [oldest] = this.#remoteMoves.keys()
    if (this.#remoteMoves.size > MAX_REMOTE_MOVES) this.#remoteMoves.delete(oldest!)
  }
}

function isNotFound(error: unknown): boolean {
  return error instanceof DroverError && error.code === 'VM_NOT_FOUND'
}
