import { z } from 'zod'
import { canonicalIp } from '../domain/address.ts'
import { printable } from '../domain/text.ts'
import { messageCodec, type OneOf, oneOfCodec } from './message.ts'

/** The messages of `/drover/probe/1` (`placement.proto`), with what each may hold. */

export const MAX_PROBE_TARGETS = 16
/** 16 addresses of 39 characters. */
export const MAX_PROBE_REQUEST_BYTES = 1024
export const MAX_PROBE_REPLY_BYTES = 2048

/** A connect that takes longer isn't waited for. */
const MAX_RTT_US = 2_000_000
const MAX_MESSAGE_CHARS = 1024

const target = z.object({
  address: z
    .string()
    .max(39)
    .refine((address) => canonicalIp(address) === address, 'no IP address in its usual spelling'),
  port: z.int().min(1).max(65_535),
})
/** Where a probe goes. */
export type ProbeTarget = z.infer<typeof target>

/** What to tell targets apart by. */
export function targetKey({ address, port }: ProbeTarget): string {
  return `${address} ${port}`
}

export const probeRequestCodec = messageCodec(
  'drover.placement.ProbeRequest',
  z.object({
    targets: z
      .array(target)
      .min(1)
      .max(MAX_PROBE_TARGETS)
      .refine((targets) => new Set(targets.map(targetKey)).size === targets.length, 'each target once'),
  }),
)

const result = z
  .object({
    outcome: z.enum([
      'PROBE_OUTCOME_ANSWERED',
      'PROBE_OUTCOME_SILENT',
      'PROBE_OUTCOME_LIMITED',
      'PROBE_OUTCOME_FORBIDDEN',
    ]),
    rttUs: z.int().min(0).max(MAX_RTT_US),
  })
  .refine(
    ({ outcome, rttUs }) => rttUs > 0 === (outcome === 'PROBE_OUTCOME_ANSWERED'),
    'a round trip where there was an answer, and nowhere else',
  )
export type ProbeResult = z.infer<typeof result>

const replyBodies = {
  results: z.object({ results: z.array(result).min(1).max(MAX_PROBE_TARGETS) }),
  refusal: z.object({
    code: z.string().regex(/^[A-Z][A-Z0-9_]{0,63}$/),
    message: z.string().max(MAX_MESSAGE_CHARS).transform(printable),
  }),
}
export type ProbeReply = OneOf<typeof replyBodies>
export const probeReplyCodec = oneOfCodec('drover.placement.ProbeReply', replyBodies)
