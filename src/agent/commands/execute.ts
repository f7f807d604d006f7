import type { CommandKind } from '../../wire/command-messages.ts'
import { apiError } from '../api/request.ts'
import { clientLatency } from '../client-latency.ts'
import { type CommandParts, hypervisorOf } from '../parts.ts'
import { vmReply } from '../vm-reply.ts'
import type { Command, CommandOptions, CommandResults } from './command.ts'

type Executors = {
  [K in CommandKind]: (
    parts: CommandParts,
    command: Command<K>,
    options: CommandOptions<K>,
  ) => Promise<CommandResults[K]>
}

/** What each command does on the node that has the VM, began the move, or is told. */
const EXECUTORS: Executors = {
  async show(parts, { vm }) {
    const { record, pages, pagesUnavailable, consoleSocket, runState } = await vms(parts).show(vm)
    const { clientProbes } = hypervisorOf(parts)
    return {
      ...vmReply(record, parts),
      ...{ pages, pagesUnavailable, consoleSocket, runState },
      clientLatency: clientLatency(clientProbes, parts.mesh, record.spec),
    }
  },
  pause: (parts, { vm }, { signal }) => changed(parts, vm, () => vms(parts).pause(vm, { signal })),
  resume: (parts, { vm }, { signal }) => changed(parts, vm, () => vms(parts).resume(vm, { signal })),
  reset: (parts, { vm }, { signal }) => changed(parts, vm, () => vms(parts).reset(vm, { signal })),
  stop: (parts, { vm, force }, { signal }) =>
    changed(parts, vm, () => vms(parts).stopVm(vm, { force, signal })),
  async remove(parts, { vm }) {
    const removed = vmReply(vms(parts).get(vm), parts)
    await vms(parts).remove(vm)
    return removed
  },
  set: (parts, { vm, clients, auto }, { signal }) =>
    changed(parts, vm, () =>
      vms(parts).wish(
        vm,
        { ...(clients === null ? {} : clients), ...(auto === null ? {} : { auto: auto.on }) },
        { signal },
      ),
    ),
  async migrate(parts, { vms: names, to, parallel, maxBandwidthBytesPerSecond, maxBlackoutMs }) {
    const starts = moves(parts).migrate({
      vms: names,
      to,
      parallel,
      maxBandwidthBytesPerSecond: maxBandwidthBytesPerSecond || null,
      maxBlackoutMs: maxBlackoutMs || null,
    })
    return {
      migrations: starts.map((start) =>
        'migrationId' in start
          ? { vm: start.vm, migrationId: start.migrationId }
          : { vm: start.vm, error: apiError(start.error).error },
      ),
    }
  },
  async watch(parts, { migrationId }, { onProgress, signal }) {
    for await (const step of moves(parts).progress(migrationId, signal)) onProgress(step)
    return (await moves(parts).get(migrationId)).report
  },
  report: (parts, { migrationId }) => reported(parts, migrationId),
  async cancel(parts, { migrationId }) {
    await moves(parts).cancel(migrationId)
    return reported(parts, migrationId)
  },
  async resolve(parts, { migrationId, owner }) {
    await moves(parts).resolve(migrationId, owner)
    return reported(parts, migrationId)
  },
  drain: (parts, _command, options) => drains(parts).drain(options),
  async stopDrain(parts) {
    await drains(parts).stopDrain()
    return drains(parts).state()
  },
  async ready(parts) {
    await drains(parts).ready()
    return drains(parts).state()
  },
}

/** Does a command here. @throws what its room throws, such as VmError VM_NOT_FOUND */
export function execute<K extends CommandKind>(
  parts: CommandParts,
  command: Command<K>,
  options: CommandOptions<K>,
): Promise<CommandResults[K]> {
  const run = EXECUTORS[command.kind as K] as (
    parts: CommandParts,
    command: Command<K>,
    options: CommandOptions<K>,
  ) => Promise<CommandResults[K]>
  return run(parts, command, options)
}

const vms = (parts: CommandParts) => hypervisorOf(parts).vms
const moves = (parts: CommandParts) => hypervisorOf(parts).migrations
const drains = (parts: CommandParts) => hypervisorOf(parts).drains

async function changed(parts: CommandParts, vm: string, change: () => Promise<void>) {
  await change()
  return vmReply(vms(parts).get(vm), parts)
}

async function reported(parts: CommandParts, migrationId: string): Promise<CommandResults['report']> {
  const { report, running } = await moves(parts).get(migrationId)
  return { ...report, running }
}
