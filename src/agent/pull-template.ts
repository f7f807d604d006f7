import { errorBody, PolicyError } from '../domain/errors.ts'
import { TEMPLATE_ID_PATTERN } from '../domain/template.ts'
import {
  type DroppedProvider,
  type FetchTemplateRequest,
  type FetchTemplateResult,
  fetchTemplate,
  NOTHING_FETCHED,
  templateProviders,
} from '../template/index.ts'
import type { TemplateProgress } from './api-schema.ts'
import { AgentError } from './errors.ts'
import type { AgentParts } from './parts.ts'
import { templatePeers } from './template-peers.ts'

export interface Pull {
  /** A name or id that is here already, or an id. */
  template: string
  /** A peer's name or id; null: all that have it take a share. */
  from: string | null
  /** Local label for it. */
  name: string | null
  progress: (value: TemplateProgress) => void
  /** As in FetchTemplateRequest. */
  admit?: FetchTemplateRequest['admit']
  pace?: FetchTemplateRequest['pace']
  signal: AbortSignal
}

/**
 * Brings a template to this node.
 *
 * @throws PolicyError NOT_PERMITTED when nobody else gave it; AgentError TEMPLATE_ID_NEEDED, TEMPLATE_NOT_ON_PEERS; with one peer to ask, what that one said
 */
export async function pullTemplate(
  { mesh, templates, events }: Pick<AgentParts, 'mesh' | 'templates' | 'events'>,
  { template, from, name, progress, admit, pace, signal }: Pull,
): Promise<FetchTemplateResult> {
  const here = templates.list().find(({ id, names }) => id === template || names.includes(template))
  if (here !== undefined) {
    if (name !== null) await templates.name(here.id, name)
    return { record: templates.get(here.id), ...NOTHING_FETCHED }
  }
  if (!TEMPLATE_ID_PATTERN.test(template)) {
    throw new AgentError(
      'TEMPLATE_ID_NEEDED',
      `no template here is called ${template}, and names are labels of each node: give its whole id, as \`drover template ls\` shows it on the node that has it`,
      { details: { template } },
    )
  }
  const peers = async (): Promise<string[]> =>
    from === null ? templatePeers(mesh, template, signal) : [mesh.resolve(from)]
  const dropped: DroppedProvider[] = []
  try {
    const pulled = await fetchTemplate({
      store: templates,
      providers: async () =>
        templateProviders(await peers(), (peer, protocol, bounded) => mesh.open(peer, protocol, bounded)),
      id: template,
      name,
      admit,
      pace,
      signal,
      onProgress: ({ chunksDone, chunksTotal }) =>
        progress({ stage: 'receiving', done: chunksDone, total: chunksTotal }),
      onDropped: (provider) => {
        dropped.push(provider)
        events.publish({ kind: 'template-provider-dropped', id: template, ...provider })
      },
    })
    const { record: _, ...facts } = pulled
    events.publish({ kind: 'template-pulled', id: template, ...facts })
    return pulled
  } catch (error) {
    // One that was asked for by name has its own words; of several, each has its own reason.
    const { code } = errorBody(error)
    const isTheirs =
      code === 'TEMPLATE_NOT_FOUND' || (dropped.length > 1 && dropped.some((one) => one.code === code))
    if (signal.aborted || from !== null || !isTheirs || error instanceof PolicyError) throw error
    throw new AgentError('TEMPLATE_NOT_ON_PEERS', `none of ${dropped.length} members gave us ${template}`, {
      cause: error,
      details: { template, answers: dropped },
    })
  }
}
