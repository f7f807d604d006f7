import { expect, test } from 'vitest'
import {
  MAX_PROBE_REPLY_BYTES,
  MAX_PROBE_REQUEST_BYTES,
  probeReplyCodec,
  probeRequestCodec,
} from '../../src/wire/probe-messages.ts'
import { messageType } from '../../src/wire/schema.ts'

const encode = (name: string, body: object): Uint8Array => {
  const type = messageType(`drover.placement.${name}`)
  return type.encode(type.fromObject(body)).finish()
}
const target = { address: '192.0.2.7', port: 443 }
const answered = { outcome: 'PROBE_OUTCOME_ANSWERED' as const, rttUs: 1500 }

test('the largest request and reply come back as they were, within their bounds', () => {
  const longest = (index: number) => `2001:db8:1111:2222:3333:4444:5555:${(0x6600 + index).toString(16)}`
  const targets = Array.from({ length: 16 }, (_, index) => ({ address: longest(index), port: 65_535 }))
  const request = probeRequestCodec.encode({ targets })
  expect(probeRequestCodec.decode(request)).toEqual({ targets })
  expect(request.length).toBeLessThanOrEqual(MAX_PROBE_REQUEST_BYTES)
  const results = { kind: 'results' as const, results: Array(16).fill({ ...answered, rttUs: 2_000_000 }) }
  expect(probeReplyCodec.decode(probeReplyCodec.encode(results))).toEqual(results)
  const refusal = { kind: 'refusal' as const, code: 'NOT_PERMITTED', message: 'x'.repeat(1024) }
  const reply = probeReplyCodec.encode(refusal)
  expect(probeReplyCodec.decode(reply)).toEqual(refusal)
  expect(reply.length).toBeLessThanOrEqual(MAX_PROBE_REPLY_BYTES)
})

test.each<[string, object]>([
  ['no target', { targets: [] }],
  ['17 targets', { targets: Array.from({ length: 17 }, (_, index) => ({ ...target, port: index + 1 })) }],
  ['a target twice', { targets: [target, target] }],
  ['a name', { targets: [{ ...target, address: 'shop.example' }] }],
  ['an empty address', { targets: [{ ...target, address: '' }] }],
  ['an option', { targets: [{ ...target, address: '--help' }] }],
  ['a zone', { targets: [{ ...target, address: 'fe80::1%eth0' }] }],
  ['another spelling', { targets: [{ ...target, address: '2001:DB8::7' }] }],
  ['IPv4 as IPv6', { targets: [{ ...target, address: '::ffff:192.0.2.7' }] }],
  ['port 0', { targets: [{ ...target, port: 0 }] }],
  ['port 65536', { targets: [{ ...target, port: 65_536 }] }],
])('a request for %s is malformed', (_, body) => {
  const bytes = encode('ProbeRequest', body)
  expect(() => probeRequestCodec.decode(bytes)).toThrow(
    expect.objectContaining({ code: 'MESSAGE_MALFORMED' }),
  )
})

test.each<[string, object]>([
  ['nothing', {}],
  ['no results', { results: {} }],
  ['17 results', { results: { results: Array(17).fill(answered) } }],
  ['no outcome', { results: { results: [{ rttUs: 5 }] } }],
  ['an answer that took no time', { results: { results: [{ ...answered, rttUs: 0 }] } }],
  [
    'a round trip without an answer',
    { results: { results: [{ outcome: 'PROBE_OUTCOME_SILENT', rttUs: 5 }] } },
  ],
  ['a round trip that nobody waits for', { results: { results: [{ ...answered, rttUs: 2_000_001 }] } }],
  ['a code that is none', { refusal: { code: 'no', message: '' } }],
])('a reply with %s is malformed', (_, body) => {
  const bytes = encode('ProbeReply', body)
  expect(() => probeReplyCodec.decode(bytes)).toThrow(expect.objectContaining({ code: 'MESSAGE_MALFORMED' }))
})
