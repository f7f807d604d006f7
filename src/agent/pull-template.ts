import { errorBody } from '../domain/errors.ts'
import { TEMPLATE_ID_PATTERN, type TemplateRecord } from '../domain/template.ts'
import { fetchTemplate, TEMPLATE_PROTOCOL } from '../template/index.ts'
import type { TemplateProgress } from './api-schema.ts'
import { AgentError } from './errors.ts'
import type { AgentParts } from './parts.ts'

export interface Pull {
  /** A name or id that is here already, or an id. */
  template: string
  /** A peer's name or id; null: every connected member is asked, nearest first. */
  from: string | null
  /** Local label for it. */
  name: string | null
  progress: (value: TemplateProgress) => void
  signal: AbortSignal
}

/**
 * Brings a template to this node.
 *
 * @throws AgentError TEMPLATE_ID_NEEDED, TEMPLATE_NOT_ON_PEERS; with one peer to ask, what that one said
 */
export async function pullTemplate(
  { mesh, templates, events }: AgentParts,
  { template, from, name, progress, signal }: Pull,
): Promise<{ record: TemplateRecord; from: string | null; bytesReceived: number }> {
  const here = templates.list().find(({ id, names }) => id === template || names.includes(template))
  if (here !== undefined) {
    if (name !== null) await templates.name(here.id, name)
    return { record: templates.get(here.id), from: null, bytesReceived: 0 }
  }
  if (!TEMPLATE_ID_PATTERN.test(template)) {
    throw new AgentError(
      'TEMPLATE_ID_NEEDED',
      `no template here is called ${template}, and names are labels of each node: give its whole id, as \`drover template ls\` shows it on the node that has it`,
      { details: { template } },
    )
  }
  const peers = from === null ? connectedPeers(mesh.members()) : [mesh.resolve(from)]
  const answers: { peer: string; code: string; message: string }[] = []
  for (const peer of peers) {
    try {
      const { record, bytesReceived } = await fetchTemplate({
        store: templates,
        open: (openSignal) => mesh.open(peer, TEMPLATE_PROTOCOL, openSignal),
        id: template,
        name,
        signal,
        onProgress: ({ chunksDone, chunksTotal }) =>
          progress({ stage: 'receiving', done: chunksDone, total: chunksTotal }),
      })
      events.publish({ kind: 'template-pulled', id: record.id, from: peer, bytesReceived })
      return { record, from: peer, bytesReceived }
    } catch (error) {
      if (signal.aborted || peers.length === 1) throw error
      const { code, message } = errorBody(error)
      answers.push({ peer, code, message })
    }
  }
  throw new AgentError(
    'TEMPLATE_NOT_ON_PEERS',
    `none of ${peers.length} connected members gave us ${template}`,
    {
      details: { template, answers },
    },
  )
}

function connectedPeers(
  members: { peerId: string; self: boolean; connected: boolean; rttMs: number | null }[],
): string[] {
  return members
    .filter((member) => member.connected && !member.self)
    .sort((a, b) => (a.rttMs ?? Number.POSITIVE_INFINITY) - (b.rttMs ?? Number.POSITIVE_INFINITY))
    .map((member) => member.peerId)
}
