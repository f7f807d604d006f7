import type { Command } from 'commander'
import type { RebalancePlanReply, RebalanceReply } from '../../agent/api-schema.ts'
import { examples } from '../help.ts'
import { renderPlan } from '../render-plan.ts'
import type { Action } from '../session.ts'
import { renderFacts } from '../table.ts'
import { formatCount, formatTime } from '../units.ts'

export function registerRebalance(program: Command, action: Action): void {
  const rebalance = program
    .command('rebalance')
    .helpCommand(false)
    .description('What moves VMs of this node, those with --auto, to where their clients are nearest.')

  rebalance
    .command('status')
    .description('Show whether it is paused, and what it has moved since the agent started.')
    .addHelpText('before', examples(['drover rebalance status', '']))
    .action(
      action(async ({ client, out }) => {
        out.result(await client.request<RebalanceReply>('GET', '/rebalance'), render)
      }),
    )

  rebalance
    .command('plan')
    .description(
      'Show each move that was considered, with what it gains and costs in ms·s (a millisecond of the round trip to ' +
        "a VM's clients, for a second), and why it is or isn't made.",
    )
    .addHelpText(
      'before',
      examples(
        ['drover rebalance plan', ''],
        ["drover rebalance plan --json | jq '.moves[] | {vmName, to, verdict}'", ''],
      ),
    )
    .action(
      action(async ({ client, out }) => {
        out.result(await client.request<RebalancePlanReply>('GET', '/rebalance/plan'), renderPlan)
      }),
    )

  const verbs = [
    ['pause', 'Let no VM of this node be moved by itself, until `resume`, also after a restart.'],
    ['resume', 'Let VMs of this node be moved again.'],
  ] as const
  for (const [verb, description] of verbs) {
    rebalance
      .command(verb)
      .description(description)
      .addHelpText('before', examples([`drover rebalance ${verb}`, '']))
      .action(
        action(async ({ client, out }) => {
          out.result(await client.request<RebalanceReply>('POST', `/rebalance/${verb}`), render)
        }),
      )
  }
}

function render({ node, paused, moves, verdicts, vms, lookedAtMs }: RebalanceReply): string {
  return renderFacts([
    ['node', node],
    ['rebalancer', paused ? 'paused: `drover rebalance resume` lets it move VMs again' : 'on'],
    ['VMs', `${vms} that it may move`],
    ['moves', `${moves.decided} decided, ${moves.made} made, ${moves.failed} failed`],
    ['considered', renderVerdicts(verdicts)],
    ['looked', lookedAtMs === null ? 'not yet' : formatTime(lookedAtMs)],
  ])
}

/** The most frequent first. */
function renderVerdicts(verdicts: RebalanceReply['verdicts']): string {
  const counted = Object.entries(verdicts).toSorted(([, a], [, b]) => b - a)
  return counted.map(([code, count]) => `${code} ${formatCount(count)}`).join(', ') || 'nothing yet'
}
