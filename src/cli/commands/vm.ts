import type { Command } from 'commander'
import type {
  MeshVmReply,
  MeshVmsReply,
  RunVmRequest,
  SetVmRequest,
  VmReply,
  VmShowReply,
} from '../../agent/api-schema.ts'
import { formatClient } from '../../domain/client.ts'
import { PAGE_BYTES } from '../../domain/page.ts'
import { apiPath } from '../client.ts'
import { CliError } from '../errors.ts'
import { examples } from '../help.ts'
import { client as clientOption, nic } from '../options.ts'
import type { Action } from '../session.ts'
import { renderFacts, renderTable } from '../table.ts'
import { formatBytes, formatCount, formatTime, shortId } from '../units.ts'
import { noteUnanswered } from './mesh.ts'

/** @returns the group, for `vm console` to join it */
export function registerVm(program: Command, action: Action): Command {
  const vm = program
    .command('vm')
    .helpCommand(false)
    .description('VMs of this node. NAME is a name or an id.')
  registerRun(vm, action)
  registerSet(vm, action)

  vm.command('ls')
    .description('List the VMs of this node, or with --mesh those of all nodes.')
    .addHelpText('before', examples(['drover vm ls', ''], ['drover vm ls --mesh', 'which runs where']))
    .option('--mesh', 'the VMs of all nodes')
    .action(
      action(async ({ client, out }, { mesh = false }: { mesh?: boolean }) => {
        if (mesh) {
          const found = await client.request<MeshVmsReply>('GET', '/mesh/vms')
          out.result({ vms: found.vms }, renderMesh)
          noteUnanswered(out, found.unanswered)
          return
        }
        out.result(await client.request<{ vms: VmReply[] }>('GET', '/vms'), renderList)
      }),
    )

  vm.command('show')
    .argument('<name>')
    .description('Show one VM, and how many of its pages are its own.')
    .addHelpText(
      'before',
      examples(['drover vm show web-1', ''], ['drover vm show web-1 --json | jq .pages', '']),
    )
    .action(
      action(async ({ client, out }, _options, name: string) => {
        out.result(await client.request<VmShowReply>('GET', apiPath`/vms/${name}`), renderOne)
      }),
    )

  const simple = [
    ['pause', 'paused', 'Pause a VM: its memory stays, its CPUs stop.'],
    ['resume', 'running', 'Let a paused VM run on.'],
    ['reset', 'reset', 'Reset a VM like its reset button would.'],
  ] as const
  for (const [verb, done, description] of simple) {
    vm.command(verb)
      .argument('<name>')
      .description(description)
      .addHelpText('before', examples([`drover vm ${verb} web-1`, '']))
      .action(
        action(async ({ client, out }, _options, name: string) => {
          out.result(
            await client.request<VmReply>('POST', apiPath`/vms/${name}/${verb}`),
            (reply) => `${reply.name}: ${done}`,
          )
        }),
      )
  }

  vm.command('stop')
    .argument('<name>')
    .description(
      'Press the power button and wait for the guest to shut down (30 s). The VM stays listed as stopped.',
    )
    .addHelpText(
      'before',
      examples(['drover vm stop web-1', ''], ['drover vm stop web-1 --force', 'pull the plug']),
    )
    .option('--force', "end it at once, whatever the guest's disk thinks of it")
    .action(
      action(async ({ client, out }, { force = false }: { force?: boolean }, name: string) => {
        const stopped = await client.request<VmReply>('POST', apiPath`/vms/${name}/stop`, { force })
        out.result(stopped, (reply) => `${reply.name}: stopped`)
      }),
    )

  vm.command('rm')
    .argument('<name>')
    .description('Remove a stopped VM with all it has written.')
    .addHelpText('before', examples(['drover vm rm web-1', '']))
    .action(
      action(async ({ client, out }, _options, name: string) => {
        out.result(
          await client.request<VmReply>('DELETE', apiPath`/vms/${name}`),
          (reply) => `${reply.name}: removed`,
        )
      }),
    )
  return vm
}

function registerRun(vm: Command, action: Action): void {
  vm.command('run')
    .argument('<name>', 'unique on this node')
    .description('Start a copy-on-write clone of a template.')
    .addHelpText(
      'before',
      examples(
        ['drover vm run web-1 --template web', ''],
        [
          'drover vm run web-2 --template web --nic user,forward=8080:80',
          "port 8080 of this node leads to the guest's 80",
        ],
        [
          'drover vm run web-3 --template web --client 192.0.2.7:443=3 --client shop.example:443 --auto',
          'kept near those two, the first counting threefold',
        ],
      ),
    )
    .requiredOption('--template <T>', 'name or id of a template of this node')
    .option(
      '--nic <spec>',
      'user[,mac=52:54:00:..][,forward=[tcp:|udp:]HOSTPORT:GUESTPORT]...; may be repeated',
      nic,
    )
    .option(
      '--client <client>',
      'HOST:PORT[=WEIGHT] of who uses it; may be repeated; without: those connected to its forwarded ports',
      clientOption,
    )
    .option('--auto', 'let drover move it to where its clients are near')
    .action(
      action(
        async (
          { client, out },
          {
            template,
            ...options
          }: { template: string } & Partial<
            Pick<RunVmRequest, 'auto'> & { nic: RunVmRequest['nics']; client: RunVmRequest['clients'] }
          >,
          name: string,
        ) => {
          const { nic: nics = [], client: clients = [], auto = false } = options
          const body: RunVmRequest = { name, template, nics, clients, auto }
          const started = await client.request<VmReply>('POST', '/vms', body)
          out.result(started, (reply) => `${reply.name}: running (${reply.id})`)
        },
      ),
    )
}

function registerSet(vm: Command, action: Action): void {
  vm.command('set')
    .argument('<name>')
    .description('Say who uses a VM, and whether it may be moved to them. What is left out stays.')
    .addHelpText(
      'before',
      examples(
        ['drover vm set web-1 --client 192.0.2.7:443 --auto', 'instead of the clients that it had'],
        ['drover vm set web-1 --no-clients', 'those connected to its forwarded ports again'],
        ['drover vm set web-1 --no-auto', 'it stays where it is'],
      ),
    )
    .option('--client <client>', 'HOST:PORT[=WEIGHT]; may be repeated', clientOption)
    .option('--no-clients', 'forget those that it has')
    .option('--auto', 'let drover move it to where its clients are near')
    .option('--no-auto', 'leave it where it is until somebody moves it')
    .action(
      action(
        async (
          { client, out },
          options: { client?: RunVmRequest['clients']; clients: boolean; auto?: boolean },
          name: string,
        ) => {
          const body = wishes(options)
          const changed = await client.request<VmReply>('POST', apiPath`/vms/${name}/set`, body)
          out.result(
            changed,
            (reply) =>
              `${reply.name}: ${reply.auto ? 'auto' : 'not auto'}, clients ${reply.clients.map(formatClient).join(' ') || 'as connected'}`,
          )
        },
      ),
    )
}

/** @throws CliError USAGE when it says nothing, or two things at once */
function wishes({
  client = [],
  clients: keepsClients,
  auto,
}: {
  client?: RunVmRequest['clients']
  clients: boolean
  auto?: boolean
}): SetVmRequest {
  if (client.length > 0 && !keepsClients)
    throw new CliError('USAGE', 'give --client or --no-clients, not both')
  if (client.length === 0 && keepsClients && auto === undefined) {
    throw new CliError('USAGE', 'nothing to change: give --client, --no-clients, --auto or --no-auto')
  }
  return { clients: client.length > 0 || !keepsClients ? client : null, auto: auto ?? null }
}

function renderList({ vms }: { vms: VmReply[] }): string {
  return renderTable(
    ['NAME', 'STATE', 'TEMPLATE', 'MEMORY', 'PID', 'CREATED'],
    vms.map(({ name, state, template, templateNames, memoryBytes, pid, createdAtMs }) => [
      name,
      state,
      templateNames[0] ?? shortId(template),
      memoryBytes === null ? '-' : formatBytes(memoryBytes),
      pid === null ? '-' : String(pid),
      formatTime(createdAtMs),
    ]),
  )
}

function renderMesh({ vms }: { vms: MeshVmReply[] }): string {
  return renderTable(
    ['NAME', 'NODE', 'STATE', 'TEMPLATE', 'ID'],
    vms.map((vm) => [vm.name, vm.node, renderMeshState(vm), shortId(vm.template), vm.id]),
  )
}

function renderMeshState({ state, unreachableSinceMs }: MeshVmReply): string {
  return unreachableSinceMs === null ? state : `${state} since ${formatTime(unreachableSinceMs)}`
}

function renderOne(vm: VmShowReply): string {
  const { pages } = vm
  return renderFacts([
    ['name', vm.name],
    ['id', vm.id],
    ['node', vm.node],
    ['state', vm.reason === null ? vm.state : `${vm.state}: ${vm.reason}`],
    ['epoch', String(vm.epoch)],
    ['template', `${vm.templateNames[0] ?? ''} ${vm.template}`.trim()],
    ['memory', vm.memoryBytes === null ? null : formatBytes(vm.memoryBytes)],
    [
      'own pages',
      pages === null ? null : `${formatCount(pages.private)} (${formatBytes(pages.private * PAGE_BYTES)})`,
    ],
    [
      'shared',
      pages === null ? null : `${formatCount(pages.shared)} (${formatBytes(pages.shared * PAGE_BYTES)})`,
    ],
    ['untouched', pages === null ? null : formatCount(pages.untouched)],
    ...vm.nics.map(({ slot, mac, forwards }) => {
      const shown = forwards
        .map(({ protocol, hostPort, guestPort }) => ` ${protocol}:${hostPort}→${guestPort}`)
        .join('')
      return [`nic ${slot}`, `${mac}${shown}`] as const
    }),
    ['clients', vm.clients.map(formatClient).join(' ') || null],
    ['auto', vm.auto ? 'yes' : 'no'],
    [
      'clients from',
      vm.clientLatency?.nodes.map(({ name, latencyMs }) => `${name} ${latencyMs.toFixed(1)} ms`).join(', ') ??
        null,
    ],
    ['pid', vm.pid === null ? null : String(vm.pid)],
    ['console', vm.consoleSocket],
    ['move', vm.migrationId],
  ])
}
