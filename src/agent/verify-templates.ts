import { errorBody } from '../domain/errors.ts'
import type { TemplateId } from '../domain/template.ts'
import { fetchTemplate, repairTemplate, templateProviders } from '../template/index.ts'
import type { TemplateProgress, VerifyReply } from './api-schema.ts'
import type { AgentParts } from './parts.ts'
import { templatePeers } from './template-peers.ts'

type Verified = VerifyReply['templates'][number]

/**
 * Reads and hashes templates, and repairs what is damaged: page by page from
 * other templates here and from the nodes that have it. One that can't be
 * repaired says why, and keeps no other from its turn.
 *
 * @param template - a name, an id or the start of one; null: all, also those that the start found damaged
 */
export async function verifyTemplates(
  parts: AgentParts,
  {
    template,
    repair,
    progress,
    signal,
  }: {
    template: string | null
    repair: boolean
    progress: (value: TemplateProgress) => void
    signal: AbortSignal
  },
): Promise<VerifyReply> {
  const { templates } = parts
  const wanted =
    template === null ? [...templates.list(), ...templates.listDamaged()] : [templates.find(template)]
  const verified: Verified[] = []
  for (const { id, names } of wanted) {
    const stage = `verifying ${names[0] ?? id}`
    const damaged = await findDamage(parts, id, {
      signal,
      onProgress: ({ bytesDone, bytesTotal }) => progress({ stage, done: bytesDone, total: bytesTotal }),
    }).catch((error: unknown) => {
      const isThere = templates.has(id) || templates.listDamaged().some((other) => other.id === id)
      if (template !== null || isThere) throw error
      return null
    })
    // Removed before its turn.
    if (damaged === null) continue
    const sound: Verified = { id, names, ok: damaged.length === 0, damaged, repaired: null, error: null }
    if (sound.ok || !repair) {
      verified.push(sound)
      continue
    }
    progress({ stage: `repairing ${names[0] ?? id}`, done: null, total: null })
    verified.push(await repaired(parts, sound, signal))
  }
  return { templates: verified, ok: verified.every(({ ok }) => ok) }
}

async function findDamage(
  { templates }: AgentParts,
  id: TemplateId,
  options: Parameters<AgentParts['templates']['verify']>[1],
): Promise<Verified['damaged']> {
  const found = templates.listDamaged().find((other) => other.id === id)
  if (found === undefined) return (await templates.verify(id, options)).damaged
  return [{ file: String(found.error.details.reason ?? found.error.message) }]
}

async function repaired(parts: AgentParts, found: Verified, signal: AbortSignal): Promise<Verified> {
  const { templates, mesh, events } = parts
  const { id } = found
  const open = (peer: string, protocol: string, bounded: AbortSignal) => mesh.open(peer, protocol, bounded)
  const providers = async () => templateProviders(await templatePeers(mesh, id, signal), open)
  try {
    // One whose files aren't even there is fetched anew, and takes the place of what is left of it.
    const { bytesReceived, from } = templates.has(id)
      ? await repairTemplate({ store: templates, id, providers: await providers(), signal })
      : await fetchTemplate({ store: templates, id, name: null, providers, signal })
    events.publish({ kind: 'template-repaired', id, from, bytesReceived })
    return { ...found, ok: true, repaired: { from, bytesReceived } }
  } catch (error) {
    signal.throwIfAborted()
    return { ...found, error: errorBody(error) }
  }
}
