import type { Command } from 'commander'
import type { MemberReply, NodeReply, RemovalReply } from '../../agent/api-schema.ts'
import { type AgentClient, apiPath } from '../client.ts'
import { examples } from '../help.ts'
import type { Output } from '../output.ts'
import type { Action } from '../session.ts'
import { renderTable } from '../table.ts'
import { formatBytes, formatMs } from '../units.ts'

/** A member, with what it says of itself: null until it has been heard. */
export interface NodeRow extends MemberReply {
  memory: NodeReply['memory']
  /** Load average of a minute, per CPU. */
  load: number | null
  cpus: number | null
  qemu: NodeReply['qemu']
  templates: readonly string[]
  templatesTotal: number | null
  vms: NodeReply['vms']
  vmsTotal: number | null
  draining: boolean | null
  ageMs: number | null
}

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
    .command('remove')
    .argument('<peer>', "a node's name or peer id")
    .description(
      'Remove a node from the mesh, for good. It is cut off and refused by every node whose `allow.command` lets this one command, also by those that are away now. Its VMs run on where they are. To come back it needs a new identity (a new data directory); whoever has the mesh key can make one: if the key is lost too, name in `allow` who may do what.',
    )
    .addHelpText(
      'before',
      examples(['drover mesh remove edge-3', ''], ['drover mesh remove 12D3KooW...', 'by its peer id']),
    )
    .action(
      action(async ({ client, out }, _options, peer: string) => {
        const path = apiPath`/mesh/members/${peer}/remove`
        out.result(await client.request<RemovalReply>('POST', path), ({ peerId, name }) => {
          return name === null ? `removed ${peerId}` : `removed ${name} (${peerId})`
        })
      }),
    )

  mesh
    .command('ls')
    .description('List the members, this node included.')
    .addHelpText('before', examples(['drover mesh ls', '']))
    .action(
      action(async ({ client, out }) => {
        out.result({ members: await listNodes(client) }, ({ members }) => renderNodes(members))
      }),
    )
}

/** Members, and nodes that are heard of but were never met; this node first. */
export async function listNodes(client: AgentClient): Promise<NodeRow[]> {
  const { members } = await client.request<{ members: MemberReply[] }>('GET', '/mesh/members')
  const { nodes } = await client.request<{ nodes: NodeReply[] }>('GET', '/mesh/directory')
  const heard = new Map(nodes.map((node) => [node.peerId, node]))
  const met = new Set(members.map(({ peerId }) => peerId))
  const others = nodes
    .filter(({ peerId }) => !met.has(peerId))
    .map(({ peerId, name, addresses }) => {
      return { peerId, name, addresses: [...addresses], connected: false, rttMs: null, self: false }
    })
  return [...members, ...others].map((member) => nodeRow(member, heard.get(member.peerId)))
}

function nodeRow(member: MemberReply, node: NodeReply | undefined): NodeRow {
  return {
    ...member,
    memory: node?.memory ?? null,
    load: node?.load ?? null,
    cpus: node?.cpus ?? null,
    qemu: node?.qemu ?? null,
    templates: node?.templates ?? [],
    templatesTotal: node?.templatesTotal ?? null,
    vms: node?.vms ?? [],
    vmsTotal: node?.vmsTotal ?? null,
    draining: node?.draining ?? null,
    ageMs: node?.ageMs ?? null,
  }
}

export function renderNodes(nodes: readonly NodeRow[]): string {
  return renderTable(
    ['NAME', 'STATE', 'RTT', 'TEMPLATES', 'VMS', 'FREE', 'LOAD', 'PEER ID', 'ADDRESS'],
    nodes.map((node) => [
      node.name ?? '?',
      renderState(node),
      node.rttMs === null ? '-' : formatMs(node.rttMs),
      String(node.templatesTotal ?? '-'),
      String(node.vmsTotal ?? '-'),
      node.memory === null ? '-' : formatBytes(node.memory.availableBytes),
      node.load === null ? '-' : node.load.toFixed(2),
      node.peerId,
      node.addresses[0] ?? '-',
    ]),
  )
}

function renderState({ self, connected, draining }: NodeRow): string {
  const state = self ? 'this node' : connected ? 'connected' : 'unreachable'
  return draining === true ? `${state}, draining` : state
}

/** Says on stderr whose answer is missing in what stands on stdout. */
export function noteUnanswered(out: Output, unanswered: readonly { name: string }[]): void {
  if (unanswered.length === 0) return
  out.note(
    `no answer from ${unanswered.map(({ name }) => name).join(', ')}: only what they announced is shown`,
  )
}
