import type { Command } from 'commander'
import { apiPath } from '../client.ts'
import { examples } from '../help.ts'
import { positive } from '../options.ts'
import type { Action } from '../session.ts'

/** A guest under TCG on a busy node answers a simple command well within this. */
const DEFAULT_QUIET_S = 2

export function registerConsole(vm: Command, action: Action): void {
  vm.command('console')
    .argument('<name>')
    .description(
      "Connect this terminal with the guest's serial console, from any node; Ctrl-] ends. With input from a pipe it ends once the input " +
        'has ended and the console was quiet for a while. One console at a time: a second one waits for the first.',
    )
    .addHelpText(
      'before',
      examples(
        ['drover vm console web-1', ''],
        ["echo 'uname -a' | drover vm console web-1", 'send a line, print what comes'],
        ['drover vm console web-1 --quiet 30 < script', ''],
      ),
    )
    .option(
      '--quiet <seconds>',
      'off a terminal: end when nothing came for so long after the end of the input',
      positive,
      DEFAULT_QUIET_S,
    )
    .action(
      action(async ({ client, out, signal }, { quiet }: { quiet: number }, name: string) => {
        const { consoleSocket } = await client.request<{ consoleSocket: string }>(
          'POST',
          apiPath`/vms/${name}/console`,
        )
        const { bridgeConsole } = await import('../console-bridge.ts')
        const terminal = process.stdin.isTTY === true
        if (terminal) out.note(`${name}: connected; Ctrl-] ends`)
        const end = await bridgeConsole(
          consoleSocket,
          { input: process.stdin, output: process.stdout },
          { quietMs: quiet * 1000, signal },
        )
        if (terminal)
          out.note(
            end === 'escape' ? '\r\nleft' : '\r\nthe console closed: the VM has ended or left this node',
          )
      }),
    )
}
