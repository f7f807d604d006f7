import { expect, test } from 'vitest'
import { decodeJoinToken, encodeJoinToken } from '../../src/mesh/join-token.ts'
import { messageType } from '../../src/wire/schema.ts'

const PEER = '12D3KooWSFp855QLRvUcVwyvskF7tZrrut79duKiF4MgEw7foYs1'
const ADDRESS = `/ip4/192.0.2.1/tcp/4001/p2p/${PEER}`
const KEY = Buffer.alloc(32, 7)

/** A token as another program might make it. */
function token(message: object): string {
  const type = messageType('drover.mesh.JoinToken')
  return Buffer.from(type.encode(type.fromObject(message)).finish()).toString('base64url')
}

test('a token is read as it was written', () => {
  const { meshKey, addresses } = decodeJoinToken(encodeJoinToken(KEY, [ADDRESS]))
  expect(Buffer.compare(meshKey, KEY)).toBe(0)
  expect(addresses.map(({ peerId, address }) => [peerId, String(address)])).toEqual([[PEER, ADDRESS]])
})

test('white space around a token comes from copying it', () => {
  expect(decodeJoinToken(`\n  ${encodeJoinToken(KEY, [ADDRESS])}\n`).addresses).toHaveLength(1)
})

test('a token holds no more than 16 addresses', () => {
  const many = Array.from({ length: 40 }, (_, index) => `/ip4/192.0.2.${index}/tcp/4001/p2p/${PEER}`)
  expect(decodeJoinToken(encodeJoinToken(KEY, many)).addresses).toHaveLength(16)
})

test('of its addresses, those that can be dialled are taken', () => {
  const text = token({
    version: 1,
    meshKey: KEY,
    addresses: [`/ip4/192.0.2.1/udp/1/quic-v1/p2p/${PEER}`, ADDRESS],
  })
  expect(decodeJoinToken(text).addresses).toHaveLength(1)
})

test.for([
  ['nothing', ''],
  ['white space', '  '],
  ['words', 'let me in'],
  ['base64 with padding', 'CAESIA=='],
  ['bytes that are no message', Buffer.alloc(40, 0xff).toString('base64url')],
  ['half a token', encodeJoinToken(KEY, [ADDRESS]).slice(0, 60)],
  ['an endless one', 'A'.repeat(100_000)],
  ['no key', token({ version: 1, addresses: [ADDRESS] })],
  ['a short key', token({ version: 1, meshKey: KEY.subarray(1), addresses: [ADDRESS] })],
  ['no version', token({ meshKey: KEY, addresses: [ADDRESS] })],
  ['a later version', token({ version: 2, meshKey: KEY, addresses: [ADDRESS] })],
  ['no address', token({ version: 1, meshKey: KEY, addresses: [] })],
  ['an address without a peer', token({ version: 1, meshKey: KEY, addresses: ['/ip4/192.0.2.1/tcp/4001'] })],
  [
    'a name to look up',
    token({ version: 1, meshKey: KEY, addresses: [`/dns4/example.org/tcp/1/p2p/${PEER}`] }),
  ],
  ['a path', token({ version: 1, meshKey: KEY, addresses: ['/unix/etc/passwd'] })],
  ['no address at all', token({ version: 1, meshKey: KEY, addresses: ['; rm -rf /'] })],
  ['a long address', token({ version: 1, meshKey: KEY, addresses: ['/ip4/'.padEnd(300, '1')] })],
  ['17 addresses', token({ version: 1, meshKey: KEY, addresses: Array.from({ length: 17 }, () => ADDRESS) })],
])('%s is no token', ([, text]) => {
  expect(() => decodeJoinToken(text!)).toThrow(
    expect.objectContaining({ code: 'TOKEN_MALFORMED', outcome: 'usage' }),
  )
})
