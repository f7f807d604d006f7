import { PolicyError } from '../domain/errors.ts'
import { CHUNK_BYTES, PAGE_BYTES } from '../domain/page.ts'
import type { TemplateId } from '../domain/template.ts'
import type { Channel, OpenChannel } from '../wire/channel.ts'
import {
  type ChunkHashes,
  countPages,
  MAX_TEMPLATE_REPLY_BYTES,
  type TemplateReply,
  type TemplateRequest,
  templateReplyCodec,
  templateRequestCodec,
} from '../wire/template-messages.ts'
import { countWanted, type WantedPages } from './chunk-pages.ts'
import { TemplateError } from './errors.ts'
import { MAX_MANIFEST_BYTES } from './manifest.ts'
import { decodePages, decompressBytes } from './pages-data.ts'
import { FRAME_TIMEOUT_MS, OPEN_TIMEOUT_MS, TEMPLATE_PROTOCOL } from './protocol.ts'
import type { SimilarPages } from './similar-pages.ts'
import { withinMs } from './within.ts'

/** A peer that may have a template. */
export interface TemplateProvider {
  /** Peer id. */
  peer: string
  /** A new channel for TEMPLATE_PROTOCOL to it. */
  open: (signal: AbortSignal) => Promise<Channel>
}

/** @param peers - peer ids */
export function templateProviders(peers: readonly string[], open: OpenChannel): TemplateProvider[] {
  return peers.map((peer) => ({ peer, open: (signal) => open(peer, TEMPLATE_PROTOCOL, signal) }))
}

/**
 * What one provider says of one template, over one channel. Requests may
 * overlap: the next is on its way while a reply comes. Replies are of the kind
 * and size that was asked for, and each comes in time; whether they are true is
 * for the reader to check.
 */
export class TemplateSession {
  readonly peer: string
  readonly #channel: Channel
  readonly #templateId: TemplateId
  /** How long the provider may say nothing. */
  frameTimeoutMs: number
  readonly #signal: AbortSignal
  #sending: Promise<unknown> = Promise.resolve()
  #receiving: Promise<unknown> = Promise.resolve()
  #unanswered = 0

  private constructor(
    channel: Channel,
    init: { templateId: TemplateId; frameTimeoutMs: number; signal: AbortSignal },
  ) {
    this.peer = channel.peer
    this.#channel = channel
    this.#templateId = init.templateId
    this.frameTimeoutMs = init.frameTimeoutMs
    this.#signal = init.signal
  }

  /**
   * @param init.signal - ends the session
   * @throws TemplateError TEMPLATE_TIMEOUT; what `open` throws
   */
  static async open(
    provider: TemplateProvider,
    init: { templateId: TemplateId; frameTimeoutMs?: number | undefined; signal: AbortSignal },
  ): Promise<TemplateSession> {
    const { templateId, frameTimeoutMs = FRAME_TIMEOUT_MS, signal } = init
    const channel = await withinMs(OPEN_TIMEOUT_MS, signal, provider.open, (cause) =>
      silent(provider.peer, OPEN_TIMEOUT_MS, cause),
    )
    return new TemplateSession(channel, { templateId, frameTimeoutMs, signal })
  }

  /** Payload and framing. */
  get bytesReceived(): number {
    return this.#channel.bytesReceived
  }

  get bytesSent(): number {
    return this.#channel.bytesSent
  }

  /** Whether an answer is still to come. */
  get isBusy(): boolean {
    return this.#unanswered > 0
  }

  /** Bytes that claim to be the manifest. */
  async manifestBytes(): Promise<Buffer> {
    const parts: Buffer[] = []
    let offsetBytes = 0
    for (let totalBytes = 1; offsetBytes < totalBytes; ) {
      const request = { templateId: this.#templateId, manifest: { offsetBytes } }
      const { part, ...said } = await this.#ask(request, (reply) => this.#readManifest(reply, offsetBytes))
      if (offsetBytes > 0 && said.totalBytes !== totalBytes) {
        throw this.#unexpected(`a manifest of ${said.totalBytes} bytes`)
      }
      totalBytes = said.totalBytes
      parts.push(part)
      offsetBytes += part.length
    }
    return Buffer.concat(parts)
  }

  /**
   * One list for each chunk, in order.
   *
   * @param chunks - at most MAX_HASHED_CHUNKS, ascending
   * @param hashBytes - of each hash
   */
  async pageHashes(chunks: readonly number[], hashBytes: number): Promise<ChunkHashes[]> {
    const request = { templateId: this.#templateId, pageHashes: { chunks: [...chunks], hashBytes } }
    return this.#ask(request, (reply) => {
      if (!('pageHashes' in reply)) throw this.#unexpected('something other than page hashes')
      const lists = reply.pageHashes.chunks
      const areLists = lists.every(({ bitmap, hashes }) => hashes.length === countPages(bitmap) * hashBytes)
      if (lists.length !== chunks.length || !areLists) throw this.#unexpected('page hashes of other chunks')
      return lists.map(({ bitmap, hashes }) => ({ bitmap: Buffer.from(bitmap), hashes: Buffer.from(hashes) }))
    })
  }

  /**
   * Pages of however many chunks, joined.
   *
   * @param wanted - at most MAX_REQUESTED_PAGES, chunks ascending
   * @param similar - of a template that the provider may have, too
   */
  async pages(wanted: readonly WantedPages[], similar: SimilarPages | null = null): Promise<Buffer> {
    const count = countWanted(wanted)
    const used = similar?.isSound ? similar : null
    const request = { templateId: this.#templateId, pages: { chunks: [...wanted], similar: used?.id ?? '' } }
    const pages = await this.#ask(request, async (reply) => {
      if (!('pages' in reply)) throw this.#unexpected('something other than pages')
      if (reply.pages.byDifference && used !== null) return await used.decode(reply.pages.pages, wanted)
      const asTheyAre = reply.pages.byDifference ? null : await decodePages(reply.pages, count * PAGE_BYTES)
      if (asTheyAre === null) throw this.#unexpected(`something other than ${count} pages`)
      return asTheyAre
    })
    // Asked again without: only what comes then tells whether the provider is to blame.
    return pages ?? (await this.pages(wanted))
  }

  async #readManifest(
    reply: TemplateReply,
    offsetBytes: number,
  ): Promise<{ totalBytes: number; part: Buffer }> {
    if (!('manifest' in reply)) throw this.#unexpected('something other than a manifest')
    const { totalBytes, compressed } = reply.manifest
    if (totalBytes > MAX_MANIFEST_BYTES || totalBytes <= offsetBytes) {
      throw this.#unexpected(`a manifest of ${totalBytes} bytes`)
    }
    const part = await decompressBytes(compressed, Math.min(CHUNK_BYTES, totalBytes - offsetBytes))
    if (part === null) throw this.#unexpected('a part of a manifest of another size')
    return { totalBytes, part }
  }

  /** Says that nothing more will be asked. */
  async close(): Promise<void> {
    await withinMs(this.frameTimeoutMs, this.#signal, () => this.#channel.close(), this.#late)
  }

  abort(reason: Error): void {
    this.#channel.abort(reason)
  }

  /**
   * @param read - makes of the reply what outlives it: its bytes are views, valid until it has returned
   * @throws PolicyError NOT_PERMITTED; TemplateError TEMPLATE_REFUSED, TOO_MANY_FETCHES, TEMPLATE_TIMEOUT, TEMPLATE_MISMATCH; WireError
   */
  async #ask<T>(request: TemplateRequest, read: (reply: TemplateReply) => T | Promise<T>): Promise<T> {
    const sent = this.#inTurn('sending', (signal) =>
      this.#channel.send(templateRequestCodec.encode(request), { signal }),
    )
    const received = this.#inTurn('receiving', async (signal) => {
      const bytes = await this.#channel.receive({ maxBytes: MAX_TEMPLATE_REPLY_BYTES, signal })
      if (bytes === null) throw this.#unexpected('nothing where a reply was due')
      const reply = templateReplyCodec.decode(bytes)
      if ('refusal' in reply) throw this.#refused(reply.refusal)
      return read(reply)
    })
    this.#unanswered++
    const [, answer] = await Promise.all([sent, received])
    this.#unanswered--
    return answer
  }

  /** One after the other, each bounded from its turn on. */
  #inTurn<T>(queue: 'sending' | 'receiving', work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const act = () => withinMs(this.frameTimeoutMs, this.#signal, work, this.#late)
    const before = queue === 'sending' ? this.#sending : this.#receiving
    const done = before.then(act)
    // After a failure nothing else is tried: replies would be taken for those of other requests.
    if (queue === 'sending') this.#sending = done
    else this.#receiving = done
    done.catch(() => {})
    return done
  }

  readonly #late = (cause: unknown): TemplateError => silent(this.peer, this.frameTimeoutMs, cause)

  #refused({ code, message }: { code: string; message: string }): TemplateError | PolicyError {
    const { peer } = this
    if (code === 'NOT_PERMITTED') {
      return new PolicyError(code, `${peer} says: ${message}`, { details: { action: 'fetch', peer } })
    }
    if (code === 'TOO_MANY_FETCHES') {
      return new TemplateError(code, `${peer} says: ${message}`, { details: { peer } })
    }
    return new TemplateError(
      'TEMPLATE_REFUSED',
      `${peer} doesn't hand out the template: ${message} (${code})`,
      { details: { peer, code, message } },
    )
  }

  #unexpected(what: string): TemplateError {
    return mismatch(this.peer, what)
  }
}

/** A provider said something that can't be true. */
export function mismatch(peer: string, what: string): TemplateError {
  return new TemplateError(
    'TEMPLATE_MISMATCH',
    `${peer} sent ${what}: its copy is damaged, or it lies; fetch from another peer`,
    { details: { peer, what } },
  )
}

function silent(peer: string, timeoutMs: number, cause: unknown): TemplateError {
  const message = `${peer} said nothing for ${timeoutMs} ms while the template was fetched from it`
  return new TemplateError('TEMPLATE_TIMEOUT', message, { cause, details: { peer } })
}
