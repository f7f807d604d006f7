import { setTimeout as sleep } from 'node:timers/promises'
import { diskFullOf, errorBody, PolicyError } from '../domain/errors.ts'
import { CHUNK_BYTES } from '../domain/page.ts'
import {
  TEMPLATE_ID_PATTERN,
  type TemplateId,
  type TemplateManifest,
  type TemplateRecord,
} from '../domain/template.ts'
import { directoryBytes } from './disk.ts'
import { TemplateError } from './errors.ts'
import { type DroppedProvider, FetchMany, type FetchPace } from './fetch-many.ts'
import { CHUNK_HASHES_BYTES, isZeroChunk } from './hashing.ts'
import { IncomingTemplate } from './incoming.ts'
import { partSpans } from './layout.ts'
import { LocalPages } from './local-pages.ts'
import { decodeManifest, templateId } from './manifest.ts'
import { FRAME_TIMEOUT_MS } from './protocol.ts'
import { type Fetched, type FetchProgress, NOTHING_FETCHED } from './shared-fetches.ts'
import { SimilarPages } from './similar-pages.ts'
import type { TemplateStore } from './store.ts'
import { mismatch, type TemplateProvider, TemplateSession } from './template-session.ts'

/** How often it is looked for providers that have come since. */
const REFRESH_MS = 2_000
/** How long one of several providers may keep the others waiting for the manifest. */
const MANIFEST_TIMEOUT_MS = 3_000

export interface FetchTemplateRequest {
  store: TemplateStore
  /** Peers that may have it, the best first; asked again while the fetch goes on. */
  providers: () => readonly TemplateProvider[] | Promise<readonly TemplateProvider[]>
  id: TemplateId
  /** Label to give it here, or null. */
  name: string | null
  signal: AbortSignal
  onProgress?: ((progress: FetchProgress) => void) | undefined
  /** A provider lied, refused, fell silent or went away for good. */
  onDropped?: ((dropped: DroppedProvider) => void) | undefined
  /** How long a peer may say nothing; FRAME_TIMEOUT_MS unless told. */
  frameTimeoutMs?: number | undefined
  /** Waits before a provider whose connection broke is tried again. */
  retryDelaysMs?: readonly number[] | undefined
  /**
   * Told what the template will take on disk at most, once its manifest is here and nothing else: what it throws ends
   * the fetch. Not asked when a fetch that is under way is shared.
   */
  admit?: ((sizeBytes: number) => void) | undefined
  /** Keeps the fetch below a rate. */
  pace?: FetchPace | undefined
}

export interface FetchTemplateResult extends Fetched {
  record: TemplateRecord
}

/**
 * Makes sure that this node has a template, taking from peers what no template
 * here holds. Nothing that a peer says is believed: the manifest must hash to
 * the id, and every chunk to what the manifest says, before it is kept. What an
 * interrupted fetch has got stays, and the next one goes on from there. A fetch
 * of the same template that is under way is shared, and its bytes are counted
 * where it was started.
 *
 * @throws PolicyError NOT_PERMITTED when nobody else gave it; TemplateError TEMPLATE_MISMATCH, TOO_MANY_FETCHES,
 *   TEMPLATE_REFUSED, TEMPLATE_TIMEOUT, TEMPLATE_NOT_FOUND (not an id, or nobody to ask), MANIFEST_MALFORMED,
 *   NAME_TAKEN, NAME_INVALID; DiskFullError; WireError for what isn't a
 *   message at all
 */
export async function fetchTemplate(request: FetchTemplateRequest): Promise<FetchTemplateResult> {
  const { store, id, name, signal, onProgress } = request
  if (!TEMPLATE_ID_PATTERN.test(id)) {
    throw new TemplateError('TEMPLATE_NOT_FOUND', `${JSON.stringify(id)} is not a template id`, {
      details: { id },
    })
  }
  if (name !== null) store.requireNameFree(name, id)
  let fetched: Fetched = NOTHING_FETCHED
  if (!store.has(id)) {
    const start = (shared: AbortSignal, report: (progress: FetchProgress) => void) =>
      fetchMissing(request, shared, report)
    fetched = await store.fetches.fetch(id, start, { signal, onProgress })
  }
  if (name !== null) await store.name(id, name)
  return { record: store.get(id), ...fetched }
}

async function fetchMissing(
  request: FetchTemplateRequest,
  signal: AbortSignal,
  report: (progress: FetchProgress) => void,
): Promise<Fetched> {
  const { store, id } = request
  const startedMs = performance.now()
  await using found = await findManifest(request, signal)
  const { manifest } = found
  await using local = new LocalPages({ store, index: store.pageIndex })
  const sizeBytes = neededBytes(manifest)
  request.admit?.(sizeBytes)
  const draft = await store.beginFetch(id)
  const lackingBytes = sizeBytes - (await directoryBytes(draft.dir))
  using _space = store.reserveBytes(Math.max(0, lackingBytes))
  const similarId = similarTemplate(store, manifest)
  await using similar = similarId === null ? null : await SimilarPages.open(store, similarId)
  try {
    await using incoming = await IncomingTemplate.open(draft.files, manifest, {
      baseRamPath: similarId === null ? null : store.files(similarId).ram,
      signal,
    })
    await copyChunks(incoming, local, signal)
    const many = await fetchChunks(request, { found, incoming, local, similar }, signal, report)
    const transferMs = performance.now() - startedMs
    incoming.requireComplete()
    await incoming[Symbol.asyncDispose]()
    await draft.sealAs(manifest, null, { signal })
    return {
      bytesReceived: found.bytesReceived + many.bytesReceived,
      bytesSent: found.bytesSent + many.bytesSent,
      // The manifest alone makes nobody a source, unless nothing else had to come.
      from: many.from.length > 0 ? many.from : [found.peer],
      transferMs,
    }
  } catch (error) {
    // What a full disk has no room for must not keep it full.
    const diskFull = diskFullOf(error)
    if (diskFull !== null) await draft.discard()
    throw diskFull ?? error
  }
}

/** Until every chunk is there. */
async function fetchChunks(
  request: FetchTemplateRequest,
  {
    found,
    ...components
  }: { found: FoundManifest; incoming: IncomingTemplate; local: LocalPages; similar: SimilarPages | null },
  signal: AbortSignal,
  report: (progress: FetchProgress) => void,
): Promise<FetchMany> {
  const { id, frameTimeoutMs, retryDelaysMs, pace, onDropped = () => {} } = request
  const chunksTotal = found.manifest.chunkHashes.length
  const progress = (): void =>
    report({
      bytesReceived: found.bytesReceived + many.bytesReceived,
      chunksDone: chunksTotal - components.incoming.missing.size,
      chunksTotal,
    })
  const many = new FetchMany(
    { ...components, onDropped, onProgress: progress },
    { templateId: id, frameTimeoutMs, retryDelaysMs, pace, signal },
  )
  found.handOver(many)
  await withNewProviders(request, many, signal)
  progress()
  return many
}

/** The manifest, who sent it, and whom else to ask. */
class FoundManifest implements AsyncDisposable {
  readonly manifest: TemplateManifest
  /** Of providers that were asked in vain. */
  readonly bytesReceived: number
  readonly bytesSent: number
  readonly #provider: TemplateProvider
  readonly #others: readonly TemplateProvider[]
  #session: TemplateSession | null

  constructor(
    manifest: TemplateManifest,
    from: { provider: TemplateProvider; session: TemplateSession; others: readonly TemplateProvider[] },
    inVain: { bytesReceived: number; bytesSent: number },
  ) {
    this.manifest = manifest
    this.#provider = from.provider
    this.#session = from.session
    this.#others = from.others
    this.bytesReceived = inVain.bytesReceived
    this.bytesSent = inVain.bytesSent
  }

  /** Who sent it. */
  get peer(): string {
    return this.#provider.peer
  }

  /** The open session goes on with the one who sent the manifest. */
  handOver(many: FetchMany): void {
    many.add(this.#provider, this.#session)
    this.#session = null
    for (const provider of this.#others) many.add(provider)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#session?.abort(new Error('template transfer ended early'))
  }
}

/** Asks one provider after the other until the manifest is there. */
async function findManifest(request: FetchTemplateRequest, signal: AbortSignal): Promise<FoundManifest> {
  const { id, onDropped, frameTimeoutMs = FRAME_TIMEOUT_MS } = request
  const inVain = { bytesReceived: 0, bytesSent: 0 }
  const left = [...(await request.providers())]
  let failure: unknown = new TemplateError('TEMPLATE_NOT_FOUND', `no node is known to have template ${id}`, {
    details: { id },
  })
  for (let provider = left.shift(); provider !== undefined; provider = left.shift()) {
    const timeoutMs = left.length > 0 ? Math.min(MANIFEST_TIMEOUT_MS, frameTimeoutMs) : frameTimeoutMs
    let session: TemplateSession | null = null
    try {
      session = await TemplateSession.open(provider, { templateId: id, frameTimeoutMs: timeoutMs, signal })
      const bytes = await session.manifestBytes()
      if (templateId(bytes) !== id) throw mismatch(provider.peer, 'the manifest of another template')
      session.frameTimeoutMs = frameTimeoutMs
      return new FoundManifest(decodeManifest(bytes), { provider, session, others: left }, inVain)
    } catch (error) {
      session?.abort(new Error('template transfer ended early'))
      inVain.bytesReceived += session?.bytesReceived ?? 0
      inVain.bytesSent += session?.bytesSent ?? 0
      signal.throwIfAborted()
      // The bytes are the template's: no other provider has others.
      if (error instanceof TemplateError && error.code === 'MANIFEST_MALFORMED') throw error
      // With several that gave nothing, one that has it and may not is what to look at.
      if (!(failure instanceof PolicyError)) failure = error
      const { code, message } = errorBody(error)
      onDropped?.({ peer: provider.peer, code, message })
    }
  }
  throw failure
}

/** Whoever announces the template while the fetch goes on joins in. */
async function withNewProviders(
  { providers }: FetchTemplateRequest,
  many: FetchMany,
  signal: AbortSignal,
): Promise<void> {
  const ended = new AbortController()
  const refresh = async (): Promise<void> => {
    for (;;) {
      await sleep(REFRESH_MS, undefined, { signal: AbortSignal.any([signal, ended.signal]), ref: false })
      for (const provider of await providers()) many.add(provider)
    }
  }
  const refreshing = refresh().catch(() => {
    // The fetch has ended, or nobody can be asked who else there is: it goes on with those it has.
  })
  try {
    await many.run()
  } finally {
    ended.abort()
    await refreshing
  }
}

/** Chunks that another template here holds as they are. */
async function copyChunks(incoming: IncomingTemplate, local: LocalPages, signal: AbortSignal): Promise<void> {
  const found = local.findChunks([...incoming.missing].map((chunk) => incoming.manifest.chunkHashes[chunk]!))
  const missing = [...incoming.missing]
  for (const [index, location] of found) {
    signal.throwIfAborted()
    const bytes = Buffer.allocUnsafe(CHUNK_BYTES)
    const pageHashes = (await local.readChunk(location, bytes))
      ? incoming.check(missing[index]!, bytes)
      : null
    if (pageHashes !== null) await incoming.write(missing[index]!, bytes, pageHashes)
  }
}

/** The template here that has the most in common, chunk by chunk, with one of the same size. */
function similarTemplate(
  store: TemplateStore,
  { machine, chunkHashes }: TemplateManifest,
): TemplateId | null {
  const inCommon = (other: TemplateManifest): number =>
    other.machine.memoryBytes === machine.memoryBytes
      ? chunkHashes.filter(
          (hash, chunk) =>
            !isZeroChunk(hash) && Buffer.compare(hash, other.chunkHashes[chunk] ?? new Uint8Array()) === 0,
        ).length
      : 0
  const [best] = store
    .list()
    .map(({ id, manifest }) => ({ id, chunks: inCommon(manifest) }))
    .filter(({ chunks }) => chunks > 0)
    .toSorted((a, b) => b.chunks - a.chunks)
  return best?.id ?? null
}

/** Disk space that the template will take at most: chunks of zeros are holes. */
function neededBytes(manifest: TemplateManifest): number {
  const chunks = partSpans(manifest).flatMap(({ firstChunk, endChunk, sizeBytes }) =>
    Array.from({ length: endChunk - firstChunk }, (_, i) =>
      isZeroChunk(manifest.chunkHashes[firstChunk + i]!)
        ? 0
        : Math.min(CHUNK_BYTES, sizeBytes - i * CHUNK_BYTES),
    ),
  )
  return chunks.reduce((sum, bytes) => sum + bytes, 0) + chunks.length * CHUNK_HASHES_BYTES
}
