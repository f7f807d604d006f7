import type { TemplateId } from '../domain/template.ts'
import type { Mesh } from '../mesh/index.ts'
import type { ProviderPeer } from '../template/index.ts'

/**
 * Who to ask for a template: those that are known to have it, the nearest
 * first. Where nobody is, every connected member: what was sealed a moment ago
 * may not be announced yet.
 */
export async function templatePeers(
  mesh: Mesh,
  id: TemplateId,
  signal: AbortSignal,
): Promise<ProviderPeer[]> {
  const members = mesh.members()
  const rttMsOf = (peer: string): number | null =>
    members.find(({ peerId }) => peerId === peer)?.rttMs ?? null
  const known = (await mesh.providersOf(id, { signal })).filter((peer) => peer !== mesh.peerId)
  if (known.length > 0) return known.map((peer) => ({ peer, rttMs: rttMsOf(peer) }))
  return members
    .filter((member) => member.connected && !member.self)
    .sort((a, b) => (a.rttMs ?? Number.POSITIVE_INFINITY) - (b.rttMs ?? Number.POSITIVE_INFINITY))
    .map(({ peerId, rttMs }) => ({ peer: peerId, rttMs }))
}
