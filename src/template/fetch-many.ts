import { setTimeout as sleep } from 'node:timers/promises'
import { DiskFullError, DroverError, errorBody, PolicyError } from '../domain/errors.ts'
import { CHUNK_BYTES } from '../domain/page.ts'
import type { TemplateId } from '../domain/template.ts'
import { FULL_HASH_BYTES, SHORT_HASH_BYTES } from '../wire/template-messages.ts'
import { assembleChunk, expandHashes, isAsListed, ReceivedPages } from './chunk-assembly.ts'
import { bitmapOf, pagesOf } from './chunk-pages.ts'
import { FetchPlan, type ListedChunk, listedChunk, type Share } from './fetch-plan.ts'
import { chunkHash, HASH_BYTES, hashPages } from './hashing.ts'
import type { IncomingTemplate } from './incoming.ts'
import type { LocalPages } from './local-pages.ts'
import { keyOf } from './page-index.ts'
import type { SimilarPages } from './similar-pages.ts'
import { mismatch, type TemplateProvider, TemplateSession } from './template-session.ts'

/**
 * Requests that a provider has at a time: one is answered while the other one's
 * answer travels. Two shares of 1 MiB fill 100 Mbit/s up to 160 ms away; and no
 * more than these two are lost when a process dies or a link breaks.
 */
const REQUESTS = 2
/** Connections, and processes at work at both ends: more providers at a time than this gain nothing. */
const MAX_PROVIDERS = 8
/** What a share is taken to take a provider of which nothing is known yet. */
const UNKNOWN_SHARE_MS = 2_000
/** How much the newest share counts for what the next is expected to take. */
const NEWEST_WEIGHT = 0.3
/** How often a provider that has nothing to do looks whether another one is late. */
const IDLE_MS = 100
/** A provider whose connection broke is tried again after so long, then given up. */
const RETRY_DELAYS_MS: readonly number[] = [250, 1_000, 4_000]
const ENDED_EARLY = new Error('template transfer ended early')

/** A provider that is not listened to any more. */
export interface DroppedProvider {
  peer: string
  code: string
  message: string
}

export interface FetchManyComponents {
  incoming: IncomingTemplate
  local: LocalPages
  /** Of the template here that has the most in common with what is fetched. */
  similar: SimilarPages | null
  /** Called for each that lied, refused, fell silent or went away for good. */
  onDropped: (dropped: DroppedProvider) => void
  /** Bytes came, or a chunk is complete. */
  onProgress: () => void
}

export interface FetchManyInit {
  templateId: TemplateId
  frameTimeoutMs?: number | undefined
  retryDelaysMs?: readonly number[] | undefined
  /** Resolves when more may be asked for after so many bytes have come and gone. */
  pace?: FetchPace | undefined
  signal: AbortSignal
}

export type FetchPace = (bytes: number, signal: AbortSignal) => Promise<unknown>

/** One provider, while it is listened to. */
interface Worker {
  provider: TemplateProvider
  session: TemplateSession
  /** What a share takes, from asking to having it. */
  shareMs: number
  /** Of the bytes of its session. */
  pacedBytes: number
}

/**
 * Fetches the chunks that a template lacks from all providers at once. What to
 * ask of whom is the plan's; who lies, falls silent or breaks off is found out
 * here.
 *
 * Lists hold 5 bytes of each page's hash, which find a page and don't prove
 * it. A chunk is kept only when all of it hashes to what the manifest says.
 * Where it doesn't, its lister is asked for the whole hashes: if those don't
 * make up the chunk's hash, or begin otherwise than what it said before, it
 * lies; otherwise they tell which page is wrong, and whoever sent that one lies.
 */
export class FetchMany {
  readonly #components: FetchManyComponents
  readonly #init: FetchManyInit
  readonly #plan: FetchPlan
  readonly #workers = new Map<string, Worker>()
  readonly #known = new Set<string>()
  readonly #dropped = new Set<string>()
  readonly #from = new Set<string>()
  readonly #ended = new AbortController()
  readonly #finished = Promise.withResolvers<void>()
  /** Take the place of those that are dropped. */
  readonly #waiting: TemplateProvider[] = []
  #active = 0
  #failure: unknown = null
  #closedBytes = { received: 0, sent: 0 }

  constructor(components: FetchManyComponents, init: FetchManyInit) {
    this.#components = components
    this.#init = init
    this.#plan = new FetchPlan(components.incoming.missing)
    this.#finished.promise.catch(() => {})
  }

  get bytesReceived(): number {
    return this.#sum('bytesReceived') + this.#closedBytes.received
  }

  get bytesSent(): number {
    return this.#sum('bytesSent') + this.#closedBytes.sent
  }

  /** Peers whose pages were kept. */
  get from(): string[] {
    return [...this.#from]
  }

  /**
   * One more provider; one that is known already is passed over.
   *
   * @param session - to go on with, if one is open
   */
  add(provider: TemplateProvider, session: TemplateSession | null = null): void {
    if (this.#known.has(provider.peer) || this.#ended.signal.aborted) return
    this.#known.add(provider.peer)
    if (this.#active < MAX_PROVIDERS) this.#start(provider, session)
    else this.#waiting.push(provider)
  }

  #start(provider: TemplateProvider, session: TemplateSession | null): void {
    this.#active++
    void this.#serve(provider, session).finally(() => {
      this.#active--
      const next = this.#plan.done || this.#ended.signal.aborted ? undefined : this.#waiting.shift()
      if (next !== undefined) this.#start(next, null)
      if (this.#active === 0 && !this.#plan.done) this.#finished.reject(this.#failure)
    })
  }

  /**
   * Resolves when nothing is missing any more.
   *
   * @throws what the last provider failed with; DiskFullError; the signal's reason
   */
  async run(): Promise<void> {
    const { signal } = this.#init
    const onAbort = (): void => this.#finished.reject(signal.reason)
    signal.addEventListener('abort', onAbort, { once: true })
    try {
      signal.throwIfAborted()
      if (!this.#plan.done) await this.#finished.promise
    } finally {
      signal.removeEventListener('abort', onAbort)
      if (!this.#plan.done) this.#ended.abort(ENDED_EARLY)
      await this.#closeAll()
      this.#ended.abort(new Error('the template transfer has ended'))
    }
  }

  /** Until the provider is done or dropped. */
  async #serve(provider: TemplateProvider, open: TemplateSession | null): Promise<void> {
    const delaysMs = [...(this.#init.retryDelaysMs ?? RETRY_DELAYS_MS)]
    for (let session = open; ; session = null) {
      try {
        await this.#converse(provider, session ?? (await this.#open(provider)))
        return
      } catch (error) {
        this.#hangUp(provider.peer)
        if (this.#ended.signal.aborted || this.#plan.done || this.#dropped.has(provider.peer)) return
        if (isOwnFault(error)) return this.#finished.reject(error)
        const delayMs = isFinal(error) ? undefined : delaysMs.shift()
        if (delayMs === undefined) return this.#drop(provider.peer, error)
        await sleep(delayMs, undefined, { signal: this.#ended.signal }).catch(() => {})
      }
    }
  }

  #open(provider: TemplateProvider): Promise<TemplateSession> {
    const { templateId, frameTimeoutMs, signal } = this.#init
    const either = AbortSignal.any([signal, this.#ended.signal])
    return TemplateSession.open(provider, { templateId, frameTimeoutMs, signal: either })
  }

  async #converse(provider: TemplateProvider, session: TemplateSession): Promise<void> {
    // It was being opened when the fetch ended: nobody else would close it.
    if (this.#plan.done || this.#ended.signal.aborted) return session.abort(ENDED_EARLY)
    const worker: Worker = { provider, session, shareMs: UNKNOWN_SHARE_MS, pacedBytes: 0 }
    this.#workers.set(provider.peer, worker)
    await Promise.all(Array.from({ length: REQUESTS }, () => this.#loop(worker)))
  }

  /** One request after the other, while there are any. */
  async #loop(worker: Worker): Promise<void> {
    const { peer } = worker.provider
    // One for all chunks that are put together here: large buffers are slow garbage.
    const buffer = Buffer.allocUnsafe(CHUNK_BYTES)
    while (!this.#plan.done && !this.#ended.signal.aborted) {
      const startedMs = performance.now()
      const share = this.#plan.take(peer, { nowMs: startedMs, expectedMs: worker.shareMs })
      if (share === null) {
        await sleep(IDLE_MS, undefined, { signal: this.#ended.signal }).catch(() => {})
        continue
      }
      try {
        if (share.kind === 'lists') await this.#fetchLists(worker, share)
        else await this.#fetchPages(worker, share, buffer)
      } catch (error) {
        this.#plan.settle(share, peer, 'failed')
        throw error
      }
      measure(worker, share, startedMs)
      if (this.#plan.done) break
      await this.#pace(worker)
    }
    if (this.#plan.done) this.#finished.resolve()
  }

  /** Requests of one session go side by side: what came for one is not counted for the other once more. */
  async #pace(worker: Worker): Promise<void> {
    const bytes = worker.session.bytesReceived + worker.session.bytesSent
    const unpacedBytes = bytes - worker.pacedBytes
    worker.pacedBytes = bytes
    await this.#init.pace?.(unpacedBytes, this.#ended.signal).catch(() => {})
  }

  async #fetchLists({ session }: Worker, share: Extract<Share, { kind: 'lists' }>): Promise<void> {
    const lists = await session.pageHashes(share.chunks, SHORT_HASH_BYTES)
    this.#components.onProgress()
    if (!this.#plan.settle(share, session.peer, 'answered')) return
    for (const [i, chunk] of share.chunks.entries()) {
      const { bitmap, hashes } = lists[i]!
      const bytes = Buffer.from(hashes)
      const keys = pagesOf(bitmap).map((_, at) => keyOf(bytes, at * SHORT_HASH_BYTES))
      this.#plan.list(await this.#withLocal(listedChunk(chunk, lists[i]!, keys, session.peer)))
    }
  }

  async #withLocal(listed: ListedChunk): Promise<ListedChunk> {
    const found = await this.#components.local.find(listed.keys)
    for (const [i, page] of listed.pages.entries()) {
      const location = found[i]
      if (location !== undefined) listed.local.set(page, location)
    }
    return listed
  }

  async #fetchPages(worker: Worker, share: Extract<Share, { kind: 'pages' }>, buffer: Buffer): Promise<void> {
    const { session } = worker
    const wanted = share.wanted.map(({ chunk, pages }) => ({ chunk: chunk.chunk, bitmap: bitmapOf(pages) }))
    const bytes =
      wanted.length === 0 ? Buffer.alloc(0) : await session.pages(wanted, this.#components.similar)
    this.#components.onProgress()
    if (!this.#plan.settle(share, session.peer, 'answered')) return
    const { incoming, local } = this.#components
    const left = new Set(share.chunks)
    try {
      const received = new ReceivedPages(share.wanted, bytes)
      for (const listed of share.chunks) {
        const assembly = await assembleChunk(listed, received, buffer, { incoming, local, plan: this.#plan })
        left.delete(listed)
        if (assembly.kind === 'mistaken') this.#plan.list(withoutGuesses(listed, assembly.pages))
        if (assembly.kind === 'wrong') await this.#convict(listed, received, session)
        if (assembly.kind === 'complete' && share.wanted.some(({ chunk }) => chunk === listed))
          this.#from.add(session.peer)
        if (assembly.kind === 'complete' && !assembly.isListRight) {
          this.#accuse(
            listed.lister,
            `page hashes of chunk ${listed.chunk} that aren't the template's`,
            session,
          )
        }
      }
    } finally {
      // An error in between must not lose a chunk.
      for (const listed of left) this.#plan.list(listed)
      this.#plan.assembled(share)
      this.#components.onProgress()
    }
  }

  /**
   * Finds out who is wrong about a chunk, and lists it again by hashes that are proved.
   *
   * @throws TemplateError TEMPLATE_MISMATCH when it is the one that we talk with
   */
  async #convict(listed: ListedChunk, received: ReceivedPages, from: TemplateSession): Promise<void> {
    const { chunk, lister } = listed
    const asked = this.#workers.get(lister)?.session ?? from
    const answer = await asked.pageHashes([chunk], FULL_HASH_BYTES).catch((error: unknown) => {
      this.#plan.unlist(chunk)
      if (asked === from) throw error
      return []
    })
    const [whole] = answer
    if (whole === undefined) return
    const pages = pagesOf(whole.bitmap)
    const hashes = Buffer.from(whole.hashes)
    const proved = expandHashes(pages, hashes)
    if (!chunkHash(proved).equals(this.#components.incoming.manifest.chunkHashes[chunk]!)) {
      this.#plan.unlist(chunk)
      return this.#accuse(asked.peer, `page hashes of chunk ${chunk} that aren't the template's`, from)
    }
    const keys = pages.map((_, i) => keyOf(hashes, i * HASH_BYTES))
    const relisted = await this.#withLocal({ ...listedChunk(chunk, whole, keys, asked.peer), proved })
    this.#plan.list(relisted)
    if (
      asked.peer === lister &&
      (listed.pages.join() !== pages.join() || listed.keys.join() !== keys.join())
    ) {
      return this.#accuse(lister, `other page hashes of chunk ${chunk} than before`, from)
    }
    for (const page of pages) {
      const came = received.of(chunk, page)
      if (came === undefined || isAsListed(relisted, page, expandHashes([page], hashPages(came)))) continue
      return this.#accuse(from.peer, `page ${page} of chunk ${chunk} that isn't the template's`, from)
    }
  }

  #accuse(peer: string, what: string, from: TemplateSession): void {
    const error = mismatch(peer, what)
    if (peer === from.peer) throw error
    this.#drop(peer, error)
  }

  #drop(peer: string, error: unknown): void {
    this.#hangUp(peer)
    if (this.#dropped.has(peer)) return
    this.#dropped.add(peer)
    this.#plan.distrust(peer)
    // Who isn't to give it to us counts as one that doesn't have it.
    if (this.#failure === null || !(error instanceof PolicyError)) this.#failure = error
    const { code, message } = errorBody(error)
    this.#components.onDropped({ peer, code, message })
  }

  #hangUp(peer: string): void {
    const session = this.#workers.get(peer)?.session
    if (session === undefined) return
    this.#workers.delete(peer)
    this.#closedBytes.received += session.bytesReceived
    this.#closedBytes.sent += session.bytesSent
    session.abort(ENDED_EARLY)
  }

  /** A provider that still answers what another one answered first is cut off. */
  async #closeAll(): Promise<void> {
    await Promise.all(
      [...this.#workers].map(async ([peer, { session }]) => {
        if (this.#plan.done && !session.isBusy) await session.close().catch(() => {})
        this.#hangUp(peer)
      }),
    )
  }

  #sum(what: 'bytesReceived' | 'bytesSent'): number {
    return [...this.#workers.values()].reduce((sum, { session }) => sum + session[what], 0)
  }
}

function measure(worker: Worker, share: Share, startedMs: number): void {
  if (share.kind === 'lists' || share.wanted.length === 0) return
  const tookMs = performance.now() - startedMs
  const isFirst = worker.shareMs === UNKNOWN_SHARE_MS
  worker.shareMs = isFirst ? tookMs : worker.shareMs * (1 - NEWEST_WEIGHT) + tookMs * NEWEST_WEIGHT
}

/** A guess that was wrong: those pages must come. */
function withoutGuesses(listed: ListedChunk, pages: readonly number[]): ListedChunk {
  for (const page of pages) {
    listed.local.delete(page)
    listed.mustTravel.add(page)
  }
  return listed
}

/** A full disk, say: no other provider would change that. */
function isOwnFault(error: unknown): boolean {
  return error instanceof DiskFullError || isSystemError(error)
}

function isSystemError(error: unknown): boolean {
  return error instanceof Error && 'syscall' in error
}

/** A lie or a refusal: asking again gives the same. */
function isFinal(error: unknown): boolean {
  return (
    error instanceof DroverError &&
    (error.code.startsWith('MESSAGE_') ||
      [
        'TEMPLATE_MISMATCH',
        'TEMPLATE_REFUSED',
        'NOT_PERMITTED',
        'PEER_REMOVED',
        'PROTOCOL_UNSUPPORTED',
      ].includes(error.code))
  )
}
