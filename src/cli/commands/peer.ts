import type { Command } from 'commander'
import type { PingReply } from '../../agent/api-schema.ts'
import { apiPath } from '../client.ts'
import { examples } from '../help.ts'
import type { Action } from '../session.ts'
import { formatMs } from '../units.ts'
import { listNodes, renderNodes } from './mesh.ts'

export function registerPeer(program: Command, action: Action): void {
  const peer = program
    .command('peer')
    .helpCommand(false)
    .description('Other nodes. PEER is a name or a peer id everywhere.')

  peer
    .command('ls')
    .description('List the other nodes.')
    .addHelpText('before', examples(['drover peer ls', '']))
    .action(
      action(async ({ client, out }) => {
        const peers = (await listNodes(client)).filter(({ self }) => !self)
        out.result({ peers }, () => renderNodes(peers))
      }),
    )

  peer
    .command('ping')
    .argument('<peer>', "a node's name or peer id")
    .description('Measure the round trip to a node.')
    .addHelpText('before', examples(['drover peer ping edge-2', '']))
    .action(
      action(async ({ client, out }, _options, name: string) => {
        out.result(
          await client.request<PingReply>('POST', apiPath`/peers/${name}/ping`),
          ({ peerId, rttMs, ...reply }) => {
            return `${reply.name ?? peerId}: ${formatMs(rttMs)}`
          },
        )
      }),
    )
}
