import { z } from 'zod'
import { CHUNK_BYTES, CHUNK_PAGES } from '../domain/page.ts'
import { TEMPLATE_ID_PATTERN } from '../domain/template.ts'
import { type MessageCodec, messageCodec } from './message.ts'

/**
 * The messages of `/drover/template/2` (`template.proto`), with what each may
 * hold. Requests on one channel are answered in order, by one frame each:
 *
 *     manifest: offset         → manifest     its next 1 MiB
 *     pageHashes: chunks       → pageHashes   one list for each chunk
 *     pages: chunks, bitmaps   → pages        those pages, joined
 *     any                      → refusal      in place of the answer
 */

/** Chunks whose page hashes one request asks for. */
export const MAX_HASHED_CHUNKS = 64
/** Pages that one request asks for, of however many chunks. */
export const MAX_REQUESTED_PAGES = CHUNK_PAGES

/** What stands for a page in a list: enough to find it by, not to prove it. 2^40 against some 2^20 pages of a node. */
export const SHORT_HASH_BYTES = 5
export const FULL_HASH_BYTES = 32
export const CHUNK_BITMAP_BYTES = CHUNK_PAGES / 8

/** 256 chunks with a bitmap each, and an id. */
export const MAX_TEMPLATE_REQUEST_BYTES = 16 * 1024
/** 256 pages that don't compress, and what says so; a manifest's part and the hashes of 64 chunks are less. */
export const MAX_TEMPLATE_REPLY_BYTES = CHUNK_BYTES + 4096

const uint32 = z.int().min(0).max(0xffffffff)
const byteCount = z.int().min(0).max(Number.MAX_SAFE_INTEGER)
const templateId = z.string().regex(TEMPLATE_ID_PATTERN)

const bytesUpTo = (maxBytes: number) =>
  z.custom<Uint8Array>(
    (value) => value instanceof Uint8Array && value.length <= maxBytes,
    `at most ${maxBytes} bytes`,
  )

const chunkBitmap = z.custom<Uint8Array>(
  (value) => value instanceof Uint8Array && value.length === CHUNK_BITMAP_BYTES,
  `not ${CHUNK_BITMAP_BYTES} bytes`,
)

const request = z.union([
  z.strictObject({ templateId, manifest: z.strictObject({ offsetBytes: byteCount }) }),
  z.strictObject({
    templateId,
    pageHashes: z.strictObject({
      chunks: z.array(uint32).min(1).max(MAX_HASHED_CHUNKS).refine(isAscending, 'not ascending'),
      hashBytes: z.int().min(SHORT_HASH_BYTES).max(FULL_HASH_BYTES),
    }),
  }),
  z.strictObject({
    templateId,
    pages: z.strictObject({
      chunks: z
        .array(z.strictObject({ chunk: uint32, bitmap: chunkBitmap }))
        .min(1)
        .refine((chunks) => isAscending(chunks.map(({ chunk }) => chunk)), 'not ascending')
        .refine((chunks) => chunks.every(({ bitmap }) => countPages(bitmap) > 0), 'no pages')
        .refine(
          (chunks) => chunks.reduce((sum, { bitmap }) => sum + countPages(bitmap), 0) <= MAX_REQUESTED_PAGES,
          `more than ${MAX_REQUESTED_PAGES} pages`,
        ),
      similar: z.union([z.literal(''), templateId]).optional(),
    }),
  }),
])

const chunkHashes = z
  .strictObject({ bitmap: chunkBitmap, hashes: bytesUpTo(CHUNK_PAGES * FULL_HASH_BYTES) })
  .refine(({ bitmap, hashes }) => isListOf(countPages(bitmap), hashes.length), 'not one hash for each page')

const reply = z.union([
  z.strictObject({
    manifest: z.strictObject({ totalBytes: byteCount, compressed: bytesUpTo(CHUNK_BYTES + 1024) }),
  }),
  z.strictObject({ pageHashes: z.strictObject({ chunks: z.array(chunkHashes).max(MAX_HASHED_CHUNKS) }) }),
  z.strictObject({
    pages: z
      .strictObject({
        pages: bytesUpTo(CHUNK_BYTES),
        compressed: z.boolean(),
        byDifference: z.boolean().optional(),
      })
      .refine(
        ({ compressed, byDifference }) => compressed || byDifference !== true,
        'a difference that is not compressed',
      ),
  }),
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
export type TemplateReply = z.infer<typeof reply>
/** Which pages of a chunk aren't zero, and how their hashes begin. */
export type ChunkHashes = z.infer<typeof chunkHashes>

export const templateRequestCodec: MessageCodec<TemplateRequest> = messageCodec(
  'drover.template.TemplateRequest',
  request,
)
export const templateReplyCodec: MessageCodec<TemplateReply> = messageCodec(
  'drover.template.TemplateReply',
  reply,
)

/** How many pages a chunk's bitmap names. */
export function countPages(bitmap: Uint8Array): number {
  let pages = 0
  for (const byte of bitmap) for (let rest = byte; rest !== 0; rest &= rest - 1) pages++
  return pages
}

/** Whether so many bytes can be the hashes of so many pages, all of one length. */
function isListOf(pages: number, bytes: number): boolean {
  if (pages === 0) return bytes === 0
  const hashBytes = bytes / pages
  return Number.isInteger(hashBytes) && hashBytes >= SHORT_HASH_BYTES && hashBytes <= FULL_HASH_BYTES
}

function isAscending(numbers: readonly number[]): boolean {
  return numbers.every((number, i) => i === 0 || number > numbers[i - 1]!)
}
