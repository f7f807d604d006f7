import { open } from 'node:fs/promises'
import { CHUNK_BYTES } from '../domain/page.ts'
import type { Channel, ChannelHandler } from '../wire/channel.ts'
import {
  type ChunkData,
  MAX_TEMPLATE_REQUEST_BYTES,
  type TemplateReply,
  type TemplateRequest,
  templateReplyCodec,
  templateRequestCodec,
} from '../wire/template-messages.ts'
import { encodeChunk } from './chunk-data.ts'
import { TemplateError } from './errors.ts'
import { FRAME_TIMEOUT_MS } from './protocol.ts'
import { readChunks } from './ram-file.ts'
import type { TemplateStore } from './store.ts'
import { withinMs } from './within.ts'

/**
 * Answers one request per channel from sealed files. What can't be answered is
 * refused with the error's code; what goes wrong on the way aborts the channel.
 */
export function serveTemplate(
  store: TemplateStore,
  { frameTimeoutMs = FRAME_TIMEOUT_MS }: { frameTimeoutMs?: number } = {},
): ChannelHandler {
  return async (channel, signal) => {
    try {
      const request = await receiveRequest(channel, frameTimeoutMs, signal)
      if (request !== null) {
        for await (const reply of withRefusal(replies(store, request, signal))) {
          await sendReply(channel, reply, frameTimeoutMs, signal)
        }
      }
      await channel.close()
    } catch (error) {
      channel.abort(error as Error)
      throw error
    }
  }
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
  reply: TemplateReply,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<void> {
  await withinMs(
    timeoutMs,
    signal,
    (bounded) => channel.send(templateReplyCodec.encode(reply), { signal: bounded }),
    (cause) => tooSlow(channel, `took nothing in ${timeoutMs} ms`, cause),
  )
}

async function* replies(
  store: TemplateStore,
  request: TemplateRequest,
  signal: AbortSignal,
): AsyncGenerator<TemplateReply> {
  if ('manifest' in request) {
    yield { manifest: store.manifestBytes(request.templateId) }
    return
  }
  const { manifest } = store.get(request.templateId)
  const files = store.files(request.templateId)
  if ('file' in request) {
    const path = files[request.file.file]
    if (path === null)
      throw new TemplateError('TEMPLATE_NOT_FOUND', `the template has no ${request.file.file}`)
    for await (const bytes of readPieces(path, signal)) yield { file: { bytes } }
    return
  }
  const { firstChunk: first, endChunk: end } = request.chunks
  if (end > manifest.chunkHashes.length) {
    throw new TemplateError(
      'TEMPLATE_NOT_FOUND',
      `the template has ${manifest.chunkHashes.length} chunks, not ${end}`,
    )
  }
  for await (const chunk of encodedChunks(files.ram, { first, end }, signal)) yield { chunk }
}

/** A last reply that says why there is no other. */
async function* withRefusal(source: AsyncIterable<TemplateReply>): AsyncGenerator<TemplateReply> {
  try {
    yield* source
  } catch (error) {
    if (!(error instanceof TemplateError)) throw error
    yield { refusal: { code: error.code, message: error.message } }
  }
}

/** Chunks in order; while one is being sent, the next is compressed and the one after that read. */
async function* encodedChunks(
  path: string,
  range: { first: number; end: number },
  signal: AbortSignal,
): AsyncGenerator<ChunkData> {
  let previous: Promise<ChunkData> | null = null
  for await (const { chunk, bytes } of readChunks(path, range, signal)) {
    const encoded = encodeChunk(chunk, bytes)
    // It may fail before its turn to be awaited; then it still throws there.
    encoded.catch(() => {})
    if (previous !== null) yield await previous
    previous = encoded
  }
  if (previous !== null) yield await previous
}

async function* readPieces(path: string, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  await using file = await open(path)
  const buffer = Buffer.allocUnsafe(CHUNK_BYTES)
  for (let position = 0; ; ) {
    signal.throwIfAborted()
    const { bytesRead } = await file.read(buffer, 0, CHUNK_BYTES, position)
    if (bytesRead === 0) return
    yield buffer.subarray(0, bytesRead)
    position += bytesRead
  }
}

function tooSlow(channel: Channel, what: string, cause: unknown): TemplateError {
  return new TemplateError('TEMPLATE_TIMEOUT', `${channel.peer} ${what}`, {
    cause,
    details: { peer: channel.peer },
  })
}
