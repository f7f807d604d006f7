import { type Command, Option } from 'commander'
import { examples } from '../help.ts'
import { count, each, size, sizeOrNone } from '../options.ts'
import type { Action, AgentFlags } from '../session.ts'

interface AgentOptions {
  config?: string
  name?: string
  dataDir?: string
  listen?: string[]
  join?: string
  memoryLimit?: number
  templateLimit?: number
  keepLimit?: number
  prefetch?: number
  prepare?: number | true
  qemu?: string
  qemuUser?: string
  accel?: 'auto' | 'kvm' | 'tcg'
}

export function registerAgent(program: Command, action: Action): void {
  const command = program
    .command('agent')
    .description(
      'Run a node in the foreground. The first start without --join creates a mesh. SIGTERM or Ctrl-C stops it; VMs run on.',
    )
    .addHelpText(
      'before',
      examples(
        ['drover agent', 'the first node of a mesh'],
        ['drover agent --join "$(ssh edge-1 drover mesh token)"', 'a node that joins it'],
        ['drover agent --name edge-2 --memory-limit 8G --config /etc/drover.json', ''],
        ['drover agent --prepare', 'keeps a QEMU ready for the next VM that arrives'],
      ),
    )
    .option(
      '--config <file>',
      'settings as JSON: name, dataDir, socket, listen, join, bootstrap, mdns, allow, memoryLimitBytes, templateLimitBytes, keepLimitBytes, prefetchLimitBytes, prepare, qemu, qemuUser, accel, logLevel',
    )
    .option('--name <name>', "how other nodes call this one (default: the host's name)")
    .option('--data-dir <dir>', 'templates, identity, records (default: /var/lib/drover)')
    .option(
      '--listen <multiaddr>',
      'where other nodes reach this one; may be repeated (default: /ip4/0.0.0.0/tcp/4710)',
      each,
    )
    .option('--join <token>', 'join the mesh of `drover mesh token`')
    .option('--memory-limit <size>', 'what VMs and templates may take together', size)
    .option(
      '--template-limit <size>',
      'what templates may take on disk: the least useful go when one comes',
      size,
    )
    .option(
      '--prepare [number]',
      'keep a QEMU started on the template used last, or several (4 at most), so that VMs arrive 50 ms sooner; each takes 30 MiB until memory is needed',
      count,
    )
    .option(
      '--keep-limit <size>',
      'what pages of VMs that went away may take on disk, for their return; 0 keeps none (default: 1G)',
      sizeOrNone,
    )
    .option(
      '--prefetch <size>',
      'what may come in an hour of templates that VMs of other nodes run from, while no VM is on its way; 0: none comes before it is needed (default: 1G)',
      sizeOrNone,
    )
    .option('--qemu <path>', 'QEMU binary (default: qemu-system-x86_64)')
    .option(
      '--qemu-user <name>',
      "unprivileged user that QEMU runs as, if the agent is root (default: the agent's own)",
    )
    .addOption(
      new Option('--accel <kind>', 'what executes guests (default: auto)').choices(['auto', 'kvm', 'tcg']),
    )
  command.action(
    action(
      async (
        session,
        { memoryLimit, templateLimit, keepLimit, prefetch, prepare, ...options }: AgentOptions,
      ) => {
        const flags: AgentFlags = { ...options }
        if (memoryLimit !== undefined) flags.memoryLimitBytes = memoryLimit
        if (templateLimit !== undefined) flags.templateLimitBytes = templateLimit
        if (keepLimit !== undefined) flags.keepLimitBytes = keepLimit
        if (prefetch !== undefined) flags.prefetchLimitBytes = prefetch
        if (prepare !== undefined) flags.prepare = prepare === true ? 1 : prepare
        // The default socket gives way to the config file's; a flag or DROVER_SOCKET doesn't.
        if (program.getOptionValueSource('socket') !== 'default') flags.socket = session.socket
        if (session.verbosity > 0) flags.logLevel = session.verbosity === 1 ? 'debug' : 'trace'
        await session.agent(flags, session.signal)
      },
    ),
  )
}
