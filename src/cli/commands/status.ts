import { setTimeout as sleep } from 'node:timers/promises'
import type { Command } from 'commander'
import type { StatusReply } from '../../agent/api-schema.ts'
import { PEER_ACTIONS, type PeerAction, type PolicySettings } from '../../domain/policy.ts'
import { CliError } from '../errors.ts'
import { examples } from '../help.ts'
import { positive } from '../options.ts'
import type { Action, Session } from '../session.ts'
import { renderFacts } from '../table.ts'
import { formatBytes, formatMs } from '../units.ts'

const RETRY_MS = 100

export function registerStatus(program: Command, action: Action): void {
  program
    .command('status')
    .description('Show this node: identity, addresses, QEMU, memory, counts.')
    .addHelpText(
      'before',
      examples(
        ['drover status', ''],
        ['drover status --wait 10', 'right after starting the agent'],
        ['drover status --json | jq .peerId', ''],
      ),
    )
    .option('--wait <seconds>', 'wait so long for the agent to answer', positive)
    .action(
      action(async (session, { wait }: { wait?: number }) => {
        session.out.result(await statusWithin(session, (wait ?? 0) * 1000), render)
      }),
    )
}

async function statusWithin({ client, signal }: Session, waitMs: number): Promise<StatusReply> {
  const deadlineMs = performance.now() + waitMs
  for (;;) {
    try {
      return await client.request<StatusReply>('GET', '/status')
    } catch (error) {
      const notYet =
        error instanceof CliError && (error.code === 'AGENT_UNREACHABLE' || error.code === 'AGENT_GONE')
      if (!notYet || performance.now() + RETRY_MS > deadlineMs) throw error
    }
    await sleep(RETRY_MS, undefined, { signal })
  }
}

function render(status: StatusReply): string {
  const { qemu, memory, keptPages, preparedQemus, counts, policy, rebalancer, prefetch, ...node } = status
  return renderFacts([
    ['node', node.name],
    ['peer id', node.peerId],
    ['state', node.draining ? 'draining: takes no VMs until `drover ready`' : null],
    ['version', node.version],
    ['up', formatMs(node.uptimeMs)],
    ...node.addresses.map((address, i) => [i === 0 ? 'addresses' : '', address] as const),
    ['qemu', qemu.version === null ? `none: ${qemu.error?.message}` : `${qemu.version}, ${qemu.path}`],
    ['accelerator', qemu.accelerator],
    ['', qemu.acceleratorReason],
    ['memory', memory === null ? null : renderMemory(memory)],
    ['kept pages', keptPages === null ? null : renderKept(keptPages)],
    ['ready QEMUs', preparedQemus.length === 0 ? null : String(preparedQemus.length)],
    ['VMs', `${counts.vmsRunning} running of ${counts.vms}`],
    ['templates', String(counts.templates)],
    ['prefetched', prefetch === null ? null : renderPrefetch(prefetch)],
    ['members', `${counts.membersConnected} connected of ${counts.members}`],
    ['moves', `${counts.migrationsRunning} under way`],
    ['rebalancer', rebalancer === null ? null : renderRebalancer(rebalancer)],
    ...PEER_ACTIONS.map((action, i) => [i === 0 ? 'allows' : '', renderPermitted(policy, action)] as const),
  ])
}

function renderRebalancer({ paused, moves }: NonNullable<StatusReply['rebalancer']>): string {
  return `${paused ? 'paused' : 'on'}: ${moves.made} moves made, ${moves.failed} failed`
}

function renderPrefetch({ limitBytesPerHour, spentBytes }: NonNullable<StatusReply['prefetch']>): string {
  if (limitBytesPerHour === 0) return 'off'
  return `${formatBytes(spentBytes)} in the last hour, of at most ${formatBytes(limitBytesPerHour)}`
}

function renderKept({ keptBytes, limitBytes }: NonNullable<StatusReply['keptPages']>): string {
  return `${formatBytes(keptBytes)} of at most ${formatBytes(limitBytes)} on disk`
}

function renderPermitted(policy: PolicySettings, action: PeerAction): string {
  const permitted = policy[action]
  if (permitted === 'members') return `${action}: all members`
  return `${action}: ${permitted.length === 0 ? 'nobody' : permitted.join(', ')}`
}

function renderMemory({
  limitBytes,
  committedBytes,
  reservedBytes,
  availableBytes,
}: NonNullable<StatusReply['memory']>): string {
  const limit = limitBytes === null ? '' : ` of ${formatBytes(limitBytes)}`
  const reserved = reservedBytes === 0 ? '' : `, ${formatBytes(reservedBytes)} reserved for arrivals`
  return `${formatBytes(committedBytes)}${limit} committed${reserved}, ${formatBytes(availableBytes)} available`
}
