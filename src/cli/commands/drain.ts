import type { Command } from 'commander'
import type { DrainProgress, DrainReply, NodeCommandRequest, NodeStateReply } from '../../agent/api-schema.ts'
import { DroverError } from '../../domain/errors.ts'
import { worstExitCode } from '../exit-code.ts'
import { examples } from '../help.ts'
import type { Action, Session } from '../session.ts'
import { formatMs } from '../units.ts'
import { describeProgress, UNINTERRUPTED } from '../watch-migration.ts'

export function registerDrain(program: Command, action: Action): void {
  program
    .command('drain')
    .argument('[peer]', "a node's name or peer id (default: this node)")
    .description(
      'Move every VM of a node away, each to where it fits best, and take no more. New VMs and arrivals are refused ' +
        'until `drover ready`, also after a restart. Ctrl-C cancels the moves under way and leaves the rest where it ' +
        'is; the node still takes no VMs. The exit code is that of the worst VM.',
    )
    .addHelpText(
      'before',
      examples(
        ['drover drain', 'before this machine is rebooted'],
        ['drover drain edge-3', 'the same for another node'],
        ['drover drain --json | jq .notPlaced', 'what could not go anywhere, and why'],
      ),
    )
    .action(
      action(async (session, _options, peer?: string) => {
        const reply = await drain(session, { peer: peer ?? null })
        session.out.result(reply, render)
        session.out.note(`${reply.node} takes no VMs until \`${readyCommand(peer)}\``)
        const outcomes = reply.notPlaced.map(({ outcome }) => (outcome === 'usage' ? 'refused' : outcome))
        return worstExitCode(session.signal.aborted ? [...outcomes, 'cancelled'] : outcomes)
      }),
    )

  program
    .command('ready')
    .argument('[peer]', "a node's name or peer id (default: this node)")
    .description('Let a node that was drained take VMs again. A drain that is under way is stopped.')
    .addHelpText('before', examples(['drover ready', ''], ['drover ready edge-3', '']))
    .action(
      action(async ({ client, out }, _options, peer?: string) => {
        const body: NodeCommandRequest = { peer: peer ?? null }
        out.result(
          await client.request<NodeStateReply>('POST', '/ready', body),
          ({ node }) => `${node}: takes VMs`,
        )
      }),
    )
}

/** Ctrl-C asks for a stop and waits on: only the reply says what is where. */
async function drain(session: Session, body: NodeCommandRequest): Promise<DrainReply> {
  const { client, out, signal } = session
  signal.throwIfAborted()
  const stop = () => void stopDrain(session, body)
  signal.addEventListener('abort', stop, { once: true })
  try {
    const request = { method: 'POST', path: '/drain', body, signal: UNINTERRUPTED } as const
    return await client.operation<DrainProgress, DrainReply>(request, (progress) =>
      out.progress(describe(progress)),
    )
  } finally {
    signal.removeEventListener('abort', stop)
  }
}

async function stopDrain({ client, out }: Session, body: NodeCommandRequest): Promise<void> {
  out.note('stopping; waiting for the moves to end (Ctrl-C again to leave at once)')
  try {
    await client.request<NodeStateReply>('POST', '/drain/stop', body, UNINTERRUPTED)
  } catch (error) {
    if (!(error instanceof DroverError)) throw error
    out.note(`drover: ${error.message} (${error.code})`)
  }
}

function describe({ moved, notPlaced, left, move }: DrainProgress): string {
  const failed = notPlaced > 0 ? `, ${notPlaced} could not` : ''
  const step = move === null ? '' : `; ${describeProgress(move)}`
  return `${moved} of ${moved + notPlaced + left} moved${failed}${step}`
}

function render({ node, moved, notPlaced, stopped }: DrainReply): string {
  const lines = [
    ...moved.map(({ vm, node: there, durationsMs }) => {
      return `${vm}: moved to ${there} in ${formatMs(durationsMs.total)}, blackout ${formatMs(durationsMs.blackout)}`
    }),
    ...notPlaced.map(({ vm, code, message }) => `${vm}: still here: ${message} (${code})`),
    ...stopped.map((vm) => `${vm}: stopped, so it has no memory to move; \`drover vm rm ${vm}\` removes it`),
  ]
  return lines.length > 0 ? lines.join('\n') : `${node}: no VMs`
}

function readyCommand(peer: string | undefined): string {
  return peer === undefined ? 'drover ready' : `drover ready ${peer}`
}
