import { type FileHandle, open } from 'node:fs/promises'
import { PolicyError } from '../domain/errors.ts'
import { CHUNK_BYTES, CHUNK_PAGES, PAGE_BYTES } from '../domain/page.ts'
import type { Policy } from '../domain/policy.ts'
import type { TemplateId } from '../domain/template.ts'
import type { Channel, ChannelHandler } from '../wire/channel.ts'
import {
  type ChunkHashes,
  MAX_TEMPLATE_REQUEST_BYTES,
  type TemplateReply,
  type TemplateRequest,
  templateReplyCodec,
  templateRequestCodec,
} from '../wire/template-messages.ts'
import { bitmapOf, countWanted } from './chunk-pages.ts'
import { TemplateContent } from './content.ts'
import { TemplateError } from './errors.ts'
import { CHUNK_HASHES_BYTES, HASH_BYTES, ZERO_PAGE_HASH } from './hashing.ts'
import { partSpans } from './layout.ts'
import { compressBytes, encodePages } from './pages-data.ts'
import { FRAME_TIMEOUT_MS, IDLE_TIMEOUT_MS } from './protocol.ts'
import { ServingPlaces } from './serving-places.ts'
import { SimilarPages } from './similar-pages.ts'
import type { TemplateStore } from './store.ts'
import { withinMs } from './within.ts'

/**
 * Answers requests from sealed files, one after the other. What can't be
 * answered is refused with the error's code; what goes wrong on the way aborts
 * the channel.
 */
export function serveTemplate(
  store: TemplateStore,
  {
    frameTimeoutMs = FRAME_TIMEOUT_MS,
    idleTimeoutMs = IDLE_TIMEOUT_MS,
    policy,
    places = new ServingPlaces(),
  }: ServeTemplateOptions = {},
): ChannelHandler {
  return async (channel, signal) => {
    try {
      await using open = new ServedTemplate(store)
      const admit = () => {
        policy?.requirePermitted('fetch', channel.peer)
        open.admit(() => places.take(channel.peer))
      }
      let sending: Promise<void> = Promise.resolve()
      for (;;) {
        const request = await receiveRequest(channel, idleTimeoutMs, signal)
        if (request === null) break
        // Read and compressed while the one before it is on its way.
        const reply = templateReplyCodec.encode(await answer(open, request, admit))
        await sending
        sending = sendReply(channel, reply, frameTimeoutMs, signal)
        sending.catch(() => {})
      }
      await sending
      await channel.close()
    } catch (error) {
      channel.abort(error as Error)
      throw error
    }
  }
}

export interface ServeTemplateOptions {
  frameTimeoutMs?: number
  idleTimeoutMs?: number
  /** Who may fetch; without it everybody. */
  policy?: Policy
  /** Shared by all channels. */
  places?: ServingPlaces
}

interface OpenTemplate {
  content: TemplateContent
  pageHashes: FileHandle
  chunks: number
}

/** What one channel has open of the template that it asks for. */
class ServedTemplate implements AsyncDisposable {
  readonly store: TemplateStore
  #pages: Buffer | null = null
  #place: Disposable | null = null
  #id: TemplateId | null = null
  #opened: OpenTemplate | null = null
  #similar: SimilarPages | null = null

  constructor(store: TemplateStore) {
    this.store = store
  }

  /** Has its place from the first request on: who says nothing takes nobody's. */
  admit(take: () => Disposable): void {
    this.#place ??= take()
  }

  /** For the pages of one reply: encoded, which copies them, before the next is made. Large buffers are slow garbage. */
  get pages(): Buffer {
    this.#pages ??= Buffer.allocUnsafe(CHUNK_BYTES)
    return this.#pages
  }

  /** Once open it stays so: what is removed meanwhile is served to its end. */
  async open(id: TemplateId): Promise<OpenTemplate> {
    if (this.#id === id && this.#opened !== null) return this.#opened
    await this.#close()
    const files = this.store.files(id)
    const { manifest } = this.store.get(id)
    await using opening = new AsyncDisposableStack()
    const content = opening.use(await TemplateContent.open(files, partSpans(manifest)))
    const pageHashes = opening.use(await open(files.pageHashes))
    opening.move()
    this.#id = id
    this.#opened = { content, pageHashes, chunks: manifest.chunkHashes.length }
    return this.#opened
  }

  /** @returns null when it isn't here either */
  async similar(id: TemplateId): Promise<SimilarPages | null> {
    if (this.#similar?.id === id) return this.#similar
    await this.#similar?.[Symbol.asyncDispose]()
    this.#similar = null
    this.#similar = await SimilarPages.open(this.store, id)
    return this.#similar
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#place?.[Symbol.dispose]()
    await this.#similar?.[Symbol.asyncDispose]()
    await this.#close()
  }

  async #close(): Promise<void> {
    const opened = this.#opened
    this.#opened = null
    await opened?.content.close()
    await opened?.pageHashes.close()
  }
}

/** The reply; a refusal that says why there is no other. */
async function answer(
  served: ServedTemplate,
  request: TemplateRequest,
  admit: () => void,
): Promise<TemplateReply> {
  try {
    admit()
    return await reply(served, request)
  } catch (error) {
    if (!(error instanceof TemplateError || error instanceof PolicyError)) throw error
    return { refusal: { code: error.code, message: error.message } }
  }
}

async function reply(served: ServedTemplate, request: TemplateRequest): Promise<TemplateReply> {
  const { templateId } = request
  if ('manifest' in request) {
    const bytes = served.store.manifestBytes(templateId)
    const { offsetBytes } = request.manifest
    if (offsetBytes >= bytes.length) throw outside(`byte ${offsetBytes} of its manifest`)
    const part = bytes.subarray(offsetBytes, offsetBytes + CHUNK_BYTES)
    return { manifest: { totalBytes: bytes.length, compressed: await compressBytes(part) } }
  }
  const { content, pageHashes, chunks: chunksThere } = await served.open(templateId)
  const wanted =
    'pages' in request ? request.pages.chunks.map(({ chunk }) => chunk) : request.pageHashes.chunks
  const missing = wanted.find((chunk) => chunk >= chunksThere)
  if (missing !== undefined) throw outside(`chunk ${missing}`)
  if ('pageHashes' in request) {
    const { chunks, hashBytes } = request.pageHashes
    const lists: ChunkHashes[] = []
    for (const chunk of chunks) lists.push(await listHashes(pageHashes, chunk, hashBytes))
    return { pageHashes: { chunks: lists } }
  }
  const { chunks, similar: similarId } = request.pages
  const pages = served.pages.subarray(0, countWanted(chunks) * PAGE_BYTES)
  await content.readWanted(chunks, pages)
  const similar = similarId ? await served.similar(similarId) : null
  // One that is damaged here helps nobody.
  const similarPages = await similar?.read(chunks).catch(() => null)
  return { pages: await encodePages(pages, similarPages ?? null) }
}

async function listHashes(file: FileHandle, chunk: number, hashBytes: number): Promise<ChunkHashes> {
  const all = Buffer.alloc(CHUNK_HASHES_BYTES)
  await file.read(all, 0, CHUNK_HASHES_BYTES, chunk * CHUNK_HASHES_BYTES)
  const pages: number[] = []
  const hashes: Buffer[] = []
  for (let page = 0; page < CHUNK_PAGES; page++) {
    const hash = all.subarray(page * HASH_BYTES, (page + 1) * HASH_BYTES)
    if (ZERO_PAGE_HASH.equals(hash)) continue
    pages.push(page)
    hashes.push(hash.subarray(0, hashBytes))
  }
  return { bitmap: bitmapOf(pages), hashes: Buffer.concat(hashes) }
}

function outside(what: string): TemplateError {
  return new TemplateError('TEMPLATE_NOT_FOUND', `the template has no ${what}`)
}

async function receiveRequest(
  channel: Channel,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<TemplateRequest | null> {
  const bytes = await withinMs(
    timeoutMs,
    signal,
    (bounded) => channel.receive({ maxBytes: MAX_TEMPLATE_REQUEST_BYTES, signal: bounded }),
    (cause) => tooSlow(channel, `sent no request in ${timeoutMs} ms`, cause),
  )
  return bytes === null ? null : templateRequestCodec.decode(bytes)
}

async function sendReply(
  channel: Channel,
  reply: Uint8Array,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<void> {
  await withinMs(
    timeoutMs,
    signal,
    (bounded) => channel.send(reply, { signal: bounded }),
    (cause) => tooSlow(channel, `took nothing in ${timeoutMs} ms`, cause),
  )
}

function tooSlow(channel: Channel, what: string, cause: unknown): TemplateError {
  return new TemplateError('TEMPLATE_TIMEOUT', `${channel.peer} ${what}`, {
    cause,
    details: { peer: channel.peer },
  })
}
