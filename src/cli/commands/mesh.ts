import type { Command } from 'commander'
import type { MemberReply } from '../../agent/api-schema.ts'
import { examples } from '../help.ts'
import type { Action } from '../session.ts'
import { renderTable } from '../table.ts'
import { formatMs } from '../units.ts'

export function registerMesh(program: Command, action: Action): void {
  const mesh = program
    .command('mesh')
    .helpCommand(false)
    .description('The nodes that know each other, and how to join them.')

  mesh
    .command('token')
    .description(
      'Print a join token: addresses and the mesh key. Whoever has it can join: treat it as a password.',
    )
    .addHelpText('before', examples(['drover agent --join "$(ssh edge-1 drover mesh token)"', '']))
    .action(
      action(async ({ client, out }) => {
        out.result(await client.request<{ token: string }>('GET', '/mesh/token'), ({ token }) => token)
      }),
    )

  mesh
    .command('ls')
    .description('List the members, this node included.')
    .addHelpText('before', examples(['drover mesh ls', '']))
    .action(
      action(async ({ client, out }) => {
        out.result(await client.request<{ members: MemberReply[] }>('GET', '/mesh/members'), ({ members }) =>
          renderMembers(members),
        )
      }),
    )
}

export function renderMembers(members: readonly MemberReply[]): string {
  return renderTable(
    ['NAME', 'STATE', 'RTT', 'PEER ID', 'ADDRESS'],
    members.map(({ name, self, connected, rttMs, peerId, addresses }) => [
      name ?? '?',
      self ? 'this node' : connected ? 'connected' : 'unreachable',
      rttMs === null ? '-' : formatMs(rttMs),
      peerId,
      addresses[0] ?? '-',
    ]),
  )
}
