import type { TemplateFile, TemplateId } from '../domain/template.ts'
import { unlessAborted } from '../domain/wait.ts'
import type { Channel } from '../wire/channel.ts'
import {
  type ChunkData,
  MAX_TEMPLATE_DATA_BYTES,
  type TemplateReply,
  type TemplateRequest,
  templateReplyCodec,
  templateRequestCodec,
} from '../wire/template-messages.ts'
import { TemplateError } from './errors.ts'
import { MAX_MANIFEST_BYTES } from './manifest.ts'
import { FRAME_TIMEOUT_MS, OPEN_TIMEOUT_MS } from './protocol.ts'
import { withinMs } from './within.ts'

/** A new channel for TEMPLATE_PROTOCOL to a peer. */
export type OpenTemplateChannel = (signal: AbortSignal) => Promise<Channel>

/**
 * What another agent says of one template, part by part, each on a channel of
 * its own. Replies are of the kind and in the order that was asked for, and
 * each comes in time; whether they are true is for the reader to check.
 */
export class TemplatePeer {
  readonly #open: OpenTemplateChannel
  readonly #templateId: TemplateId
  readonly #frameTimeoutMs: number
  /** Called for each frame that arrived. */
  readonly #onReceived: () => void
  readonly #channels: Channel[] = []

  constructor(
    components: { open: OpenTemplateChannel },
    init: { templateId: TemplateId; frameTimeoutMs?: number | undefined; onReceived?: () => void },
  ) {
    this.#open = components.open
    this.#onReceived = init.onReceived ?? (() => {})
    this.#templateId = init.templateId
    this.#frameTimeoutMs = init.frameTimeoutMs ?? FRAME_TIMEOUT_MS
  }

  /** Payload and framing, over all channels so far. */
  get bytesReceived(): number {
    return this.#channels.reduce((sum, channel) => sum + channel.bytesReceived, 0)
  }

  get bytesSent(): number {
    return this.#channels.reduce((sum, channel) => sum + channel.bytesSent, 0)
  }

  /** Peer id of the one who answers; known once a channel was open. */
  get id(): string {
    return this.#channels.at(-1)?.peer ?? 'the peer'
  }

  /** Bytes that claim to be the manifest. */
  async manifestBytes(signal: AbortSignal): Promise<Uint8Array> {
    let bytes: Uint8Array | null = null
    for await (const reply of this.#ask(
      { templateId: this.#templateId, manifest: {} },
      MAX_MANIFEST_BYTES,
      signal,
    )) {
      if (!('manifest' in reply) || bytes !== null)
        throw this.#unexpected('something other than one manifest')
      bytes = Uint8Array.from(reply.manifest)
    }
    if (bytes === null) throw this.#unexpected('no manifest')
    return bytes
  }

  /** Pieces of a file, none of them empty, each valid until the next is asked for. */
  async *file(file: TemplateFile, signal: AbortSignal): AsyncGenerator<Uint8Array> {
    const request = { templateId: this.#templateId, file: { file } }
    for await (const reply of this.#ask(request, MAX_TEMPLATE_DATA_BYTES, signal)) {
      if (!('file' in reply) || reply.file.bytes.length === 0) {
        throw this.#unexpected(`something other than the next bytes of the ${file} file`)
      }
      yield reply.file.bytes
    }
  }

  /** Chunks `first` up to, not including, `end`: all of them, in order, each valid until the next is asked for. */
  async *chunks(
    { first, end }: { first: number; end: number },
    signal: AbortSignal,
  ): AsyncGenerator<ChunkData> {
    let expected = first
    const request = { templateId: this.#templateId, chunks: { firstChunk: first, endChunk: end } }
    for await (const reply of this.#ask(request, MAX_TEMPLATE_DATA_BYTES, signal)) {
      const isExpected = 'chunk' in reply && expected < end && reply.chunk.chunk === expected
      if (!isExpected)
        throw this.#unexpected(`something other than chunk ${expected} of ${first} to ${end - 1}`)
      yield reply.chunk
      expected++
    }
    if (expected < end)
      throw this.#unexpected(`no more after chunk ${expected - 1} of ${first} to ${end - 1}`)
  }

  async *#ask(
    request: TemplateRequest,
    maxBytes: number,
    signal: AbortSignal,
  ): AsyncGenerator<TemplateReply> {
    const question = templateRequestCodec.encode(request)
    const channel = await this.#bounded(OPEN_TIMEOUT_MS, signal, this.#open)
    this.#channels.push(channel)
    let isComplete = false
    try {
      await this.#bounded(this.#frameTimeoutMs, signal, (bounded) =>
        channel.send(question, { signal: bounded }),
      )
      for (;;) {
        const receive = (bounded: AbortSignal) => channel.receive({ maxBytes, signal: bounded })
        const bytes = await this.#bounded(this.#frameTimeoutMs, signal, receive)
        if (bytes === null) break
        this.#onReceived()
        const reply = templateReplyCodec.decode(bytes)
        if ('refusal' in reply) throw this.#refused(reply.refusal)
        yield reply
      }
      await this.#bounded(this.#frameTimeoutMs, signal, (bounded) => unlessAborted(channel.close(), bounded))
      isComplete = true
    } finally {
      if (!isComplete) channel.abort(new Error('template transfer ended early'))
    }
  }

  #bounded<T>(timeoutMs: number, signal: AbortSignal, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    return withinMs(timeoutMs, signal, work, (cause) => {
      const message = `${this.id} said nothing for ${timeoutMs} ms while the template was fetched from it`
      return new TemplateError('TEMPLATE_TIMEOUT', message, { cause, details: { peer: this.id } })
    })
  }

  #refused({ code, message }: { code: string; message: string }): TemplateError {
    const details = { peer: this.id, code, message }
    return new TemplateError(
      'TEMPLATE_REFUSED',
      `${this.id} doesn't hand out the template: ${message} (${code})`,
      {
        details,
      },
    )
  }

  #unexpected(what: string): TemplateError {
    return new TemplateError('TEMPLATE_MISMATCH', `${this.id} sent ${what}: fetch from another peer`, {
      details: { peer: this.id, what },
    })
  }
}
