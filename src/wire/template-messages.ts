import { z } from 'zod'
import { CHUNK_BYTES, CHUNK_PAGES, PAGE_BYTES } from '../domain/page.ts'
import { TEMPLATE_FILES, TEMPLATE_ID_PATTERN } from '../domain/template.ts'
import { type MessageCodec, messageCodec } from './message.ts'

/**
 * The messages of `/drover/template/1` (`template.proto`), with what each may
 * hold. One request per channel; replies until the channel's end:
 *
 *     manifest: {}            → manifest                          one frame
 *     chunks: first..end      → chunk first, first + 1, ... end-1 one frame each
 *     file: name              → file, file, ...                   its bytes, in order
 *     any                     → refusal                           in place of the next frame
 */

/** A request is an id and a few numbers. */
export const MAX_TEMPLATE_REQUEST_BYTES = 256
/** A chunk of 256 pages that don't compress, or as much of a file, and what says so. */
export const MAX_TEMPLATE_DATA_BYTES = CHUNK_BYTES + 1024

const uint32 = z.int().min(0).max(0xffffffff)

const bytesUpTo = (maxBytes: number) =>
  z.custom<Uint8Array>(
    (value) => value instanceof Uint8Array && value.length <= maxBytes,
    `at most ${maxBytes} bytes`,
  )

const templateId = z.string().regex(TEMPLATE_ID_PATTERN)

const request = z.union([
  z.strictObject({ templateId, manifest: z.strictObject({}) }),
  z.strictObject({
    templateId,
    chunks: z
      .strictObject({ firstChunk: uint32, endChunk: uint32 })
      .refine(({ firstChunk, endChunk }) => firstChunk < endChunk, 'no chunks'),
  }),
  z.strictObject({ templateId, file: z.strictObject({ file: z.enum(TEMPLATE_FILES) }) }),
])

const chunkData = z
  .strictObject({
    chunk: uint32,
    /** Ascending indices in the chunk of the pages that aren't zero. */
    pageOffsets: bytesUpTo(CHUNK_PAGES).refine(isAscending, 'not ascending'),
    /** Those pages, joined; zstd-compressed if `compressed`. */
    pages: bytesUpTo(CHUNK_BYTES),
    compressed: z.boolean(),
  })
  .refine(
    ({ pageOffsets, pages, compressed }) => compressed || pages.length === pageOffsets.length * PAGE_BYTES,
    'not one page for each offset',
  )

const reply = z.union([
  z.strictObject({ manifest: z.custom<Uint8Array>((value) => value instanceof Uint8Array) }),
  z.strictObject({ chunk: chunkData }),
  z.strictObject({ file: z.strictObject({ bytes: bytesUpTo(CHUNK_BYTES) }) }),
  z.strictObject({
    refusal: z.strictObject({
      code: z.string().regex(/^[A-Z][A-Z0-9_]{0,63}$/),
      // It ends up on a terminal: no control characters.
      message: z
        .string()
        .max(1024)
        .regex(/^\P{Cc}*$/u),
    }),
  }),
])

export type TemplateRequest = z.infer<typeof request>
export type ChunkData = z.infer<typeof chunkData>
export type TemplateReply = z.infer<typeof reply>

export const templateRequestCodec: MessageCodec<TemplateRequest> = messageCodec(
  'drover.template.TemplateRequest',
  request,
)
export const templateReplyCodec: MessageCodec<TemplateReply> = messageCodec(
  'drover.template.TemplateReply',
  reply,
)

function isAscending(bytes: Uint8Array): boolean {
  return bytes.every((byte, i) => i === 0 || byte > bytes[i - 1]!)
}
