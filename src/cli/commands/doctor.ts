import type { Command } from 'commander'
import type { DoctorReply } from '../../agent/api-schema.ts'
import { CliError } from '../errors.ts'
import { EXIT_CODES } from '../exit-code.ts'
import { examples } from '../help.ts'
import type { Output } from '../output.ts'
import type { Action, Session } from '../session.ts'

export function registerDoctor(program: Command, action: Action): void {
  program
    .command('doctor')
    .description(
      'Try what would keep this machine from working, and say how to repair it. The agent itself tries it where one runs. ' +
        'Exit code 3 when something required is missing.',
    )
    .addHelpText(
      'before',
      examples(['drover doctor', ''], [`drover doctor --json | jq '.checks[] | select(.ok | not)'`, '']),
    )
    .action(
      action(async (session) => {
        const report = await diagnosis(session)
        session.out.result(report, (found) => render(found, session.out))
        return report.ok ? 0 : EXIT_CODES.refused
      }),
    )
}

async function diagnosis({ client, doctor, socket, signal }: Session): Promise<DoctorReply> {
  try {
    return await client.request<DoctorReply>('GET', '/doctor')
  } catch (error) {
    if (!(error instanceof CliError) || error.code !== 'AGENT_UNREACHABLE') throw error
    return await doctor({ socket }, signal)
  }
}

function render({ checks }: DoctorReply, out: Output): string {
  const width = Math.max(...checks.map(({ check }) => check.length))
  return checks
    .map(({ check, ok, required, detail, remedy }) => {
      const mark = ok
        ? out.styled('green', 'ok  ')
        : required
          ? out.styled('red', 'FAIL')
          : out.styled('yellow', 'note')
      const indent = ' '.repeat(width + 7)
      return `${mark}  ${check.padEnd(width)} ${detail}${remedy === null ? '' : `\n${indent}→ ${remedy}`}`
    })
    .join('\n')
}
