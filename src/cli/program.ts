import { Command, Option } from 'commander'
import { DROVER_VERSION } from '../domain/version.ts'
import { registerAgent } from './commands/agent.ts'
import { registerCompletion } from './commands/completion.ts'
import { registerConsole } from './commands/console.ts'
import { registerDoctor } from './commands/doctor.ts'
import { registerDrain } from './commands/drain.ts'
import { registerEvents } from './commands/events.ts'
import { registerMesh } from './commands/mesh.ts'
import { registerMigrate } from './commands/migrate.ts'
import { registerMigration } from './commands/migration.ts'
import { registerPeer } from './commands/peer.ts'
import { registerRebalance } from './commands/rebalance.ts'
import { registerStatus } from './commands/status.ts'
import { registerTemplate } from './commands/template.ts'
import { registerVm } from './commands/vm.ts'
import { examples, firstSentence } from './help.ts'
import type { Action } from './session.ts'

const DEFAULT_SOCKET = '/run/drover/agent.sock'

/** The tree of all commands: what help, suggestions and shell completion come from. */
export function buildProgram(action: Action): Command {
  const program = new Command('drover')
    .description('Template-aware live migration of virtual machines.')
    .addHelpText(
      'before',
      examples(
        ['drover agent', 'run a node; the first one starts a mesh'],
        ['drover agent --join TOKEN', 'run a node that joins it'],
        ['drover template create web --kernel vmlinuz --memory 512M --ready "login:"', ''],
        ['drover vm run web-1 --template web', 'a copy-on-write clone, in milliseconds'],
        ['drover migrate web-1 --to edge-2', 'move it while it runs'],
      ),
    )
    .addOption(
      new Option('--socket <path>', "the agent's unix socket").env('DROVER_SOCKET').default(DEFAULT_SOCKET),
    )
    .option('--json', 'one JSON document on stdout (one per line for streams); errors too: {"error":{...}}')
    .option('-v, --verbose', 'say more; twice: everything', (_, times: number) => times + 1, 0)
    .addHelpText('after', '\nExit codes: 0 done, 1 failed, 2 usage, 3 refused, 4 in doubt, 130 cancelled.')
    .configureHelp({ subcommandDescription: (command) => firstSentence(command.description()) })
    .version(DROVER_VERSION, '--version', 'print the version')
    .exitOverride()
    // Errors are printed in one place, run.ts, whoever raised them.
    .configureOutput({ outputError: () => {} })
    .helpCommand(false)

  registerAgent(program, action)
  registerStatus(program, action)
  registerDoctor(program, action)
  registerMesh(program, action)
  registerPeer(program, action)
  registerTemplate(program, action)
  const vm = registerVm(program, action)
  registerConsole(vm, action)
  registerMigrate(program, action)
  registerMigration(program, action)
  registerDrain(program, action)
  registerRebalance(program, action)
  registerEvents(program, action)
  registerCompletion(program, action)
  return program
}
