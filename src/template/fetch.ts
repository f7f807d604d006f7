import { CHUNK_BYTES, CHUNK_PAGES } from '../domain/page.ts'
import {
  TEMPLATE_FILES,
  TEMPLATE_ID_PATTERN,
  type TemplateId,
  type TemplateManifest,
  type TemplateRecord,
} from '../domain/template.ts'
import { TemplateError } from './errors.ts'
import { HASH_BYTES, ZERO_CHUNK_HASH } from './hashing.ts'
import { IncomingTemplate } from './incoming.ts'
import { decodeManifest, templateId } from './manifest.ts'
import type { FetchedBytes, FetchProgress } from './shared-fetches.ts'
import type { TemplateStore } from './store.ts'
import { type OpenTemplateChannel, TemplatePeer } from './template-peer.ts'

export interface FetchTemplateRequest {
  store: TemplateStore
  /** To a peer that has the template; called once for each part of it. */
  open: OpenTemplateChannel
  id: TemplateId
  /** Label to give it here, or null. */
  name: string | null
  signal: AbortSignal
  onProgress?: ((progress: FetchProgress) => void) | undefined
  /** How long the peer may say nothing; FRAME_TIMEOUT_MS unless told. */
  frameTimeoutMs?: number | undefined
}

export interface FetchTemplateResult extends FetchedBytes {
  record: TemplateRecord
}

/**
 * Makes sure that this node has a template, taking it from a peer if it must.
 * Nothing that the peer says is believed: the manifest must hash to the id, and
 * everything else to what the manifest says. A fetch of the same template that
 * is under way is shared, and its bytes are counted where it was started.
 *
 * @throws TemplateError TEMPLATE_MISMATCH, TEMPLATE_REFUSED, TEMPLATE_TIMEOUT, TEMPLATE_NOT_FOUND (not an id),
 *   MANIFEST_MALFORMED, NOT_ENOUGH_DISK, NAME_TAKEN, NAME_INVALID; WireError for what isn't a message at all
 */
export async function fetchTemplate(request: FetchTemplateRequest): Promise<FetchTemplateResult> {
  const { store, id, name, signal, onProgress } = request
  if (!TEMPLATE_ID_PATTERN.test(id)) {
    throw new TemplateError('TEMPLATE_NOT_FOUND', `${JSON.stringify(id)} is not a template id`, {
      details: { id },
    })
  }
  if (name !== null) store.requireNameFree(name, id)
  let bytes: FetchedBytes = { bytesReceived: 0, bytesSent: 0 }
  if (!store.has(id)) {
    const start = (shared: AbortSignal, report: (progress: FetchProgress) => void) =>
      fetchAll(request, shared, report)
    bytes = await store.fetches.fetch(id, start, { signal, onProgress })
  }
  if (name !== null) await store.name(id, name)
  return { record: store.get(id), ...bytes }
}

async function fetchAll(
  { store, open, id, frameTimeoutMs }: FetchTemplateRequest,
  signal: AbortSignal,
  report: (progress: FetchProgress) => void,
): Promise<FetchedBytes> {
  let [chunksDone, chunksTotal] = [0, 0]
  const progress = (): void => report({ bytesReceived: peer.bytesReceived, chunksDone, chunksTotal })
  const peer = new TemplatePeer({ open }, { templateId: id, frameTimeoutMs, onReceived: progress })
  const manifest = await fetchManifest(peer, id, signal)
  chunksTotal = manifest.chunkHashes.length
  await store.requireFreeBytes(neededBytes(manifest))
  await using draft = await store.begin()
  await using incoming = await IncomingTemplate.open(draft, manifest)
  for (const file of incoming.missingFiles) await incoming.writeFile(file, peer.file(file, signal), peer.id)
  for await (const chunk of peer.chunks({ first: 0, end: chunksTotal }, signal)) {
    await incoming.writeChunk(chunk, peer.id)
    chunksDone++
  }
  progress()
  await incoming.seal({ signal })
  return { bytesReceived: peer.bytesReceived, bytesSent: peer.bytesSent }
}

async function fetchManifest(
  peer: TemplatePeer,
  id: TemplateId,
  signal: AbortSignal,
): Promise<TemplateManifest> {
  const bytes = await peer.manifestBytes(signal)
  if (templateId(bytes) === id) return decodeManifest(bytes)
  throw new TemplateError('TEMPLATE_MISMATCH', `${peer.id} sent the manifest of another template`, {
    details: { peer: peer.id, what: 'manifest' },
  })
}

/** Disk space that the template will take at most: chunks of zeros are holes. */
function neededBytes(manifest: TemplateManifest): number {
  const chunks = manifest.chunkHashes.filter((hash) => Buffer.compare(hash, ZERO_CHUNK_HASH) !== 0).length
  const files = TEMPLATE_FILES.reduce((sum, file) => sum + (manifest[file]?.sizeBytes ?? 0), 0)
  return chunks * CHUNK_BYTES + manifest.chunkHashes.length * CHUNK_PAGES * HASH_BYTES + files
}
