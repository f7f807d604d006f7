import type { Command } from 'commander'
import { Argument } from 'commander'
import { completionScript, SHELLS, type Shell } from '../completion.ts'
import { examples } from '../help.ts'
import type { Action } from '../session.ts'

export function registerCompletion(program: Command, action: Action): void {
  program
    .command('completion')
    .addArgument(new Argument('<shell>').choices(SHELLS))
    .description('Print a completion script for a shell.')
    .addHelpText(
      'before',
      examples(
        ['source <(drover completion bash)', 'in ~/.bashrc'],
        ['drover completion zsh > /usr/local/share/zsh/site-functions/_drover', ''],
        ['drover completion fish > ~/.config/fish/completions/drover.fish', ''],
      ),
    )
    .action(
      action(async ({ out }, _options, shell: Shell) => {
        out.result({ shell, script: completionScript(program, shell) }, ({ script }) => script)
      }),
    )
}
