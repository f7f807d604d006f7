import type { TemplateId } from '../domain/template.ts'
import type { PeerIdText } from '../domain/vm.ts'
import type { Mesh } from '../mesh/index.ts'

/**
 * Who to ask for a template: those that are known to have it, the nearest
 * first. Where nobody is, every connected member: what was sealed a moment ago
 * may not be announced yet.
 */
export async function templatePeers(mesh: Mesh, id: TemplateId, signal: AbortSignal): Promise<PeerIdText[]> {
  const known = (await mesh.providersOf(id, { signal })).filter((peer) => peer !== mesh.peerId)
  if (known.length > 0) return known
  return mesh
    .members()
    .filter((member) => member.connected && !member.self)
    .sort((a, b) => (a.rttMs ?? Number.POSITIVE_INFINITY) - (b.rttMs ?? Number.POSITIVE_INFINITY))
    .map(({ peerId }) => peerId)
}
