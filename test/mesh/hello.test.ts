import type { Libp2p } from '@libp2p/interface'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { encodeHello } from '../../src/mesh/hello.ts'
import type { Mesh } from '../../src/mesh/index.ts'
import { MAX_HELLO_BYTES } from '../../src/wire/mesh-messages.ts'
import { messageType } from '../../src/wire/schema.ts'
import { startNode, type TestNode, whenMembers } from '../support/mesh-pair.ts'
import { helloBytes, sayHelloTo, startRawPeer } from '../support/raw-peer.ts'

const PEER = '12D3KooWSFp855QLRvUcVwyvskF7tZrrut79duKiF4MgEw7foYs1'

test('a hello of a full mesh stays within its bound, and names those in front', () => {
  const members = Array.from({ length: 300 }, (_, index) => ({
    peerId: PEER,
    name: `node-${index}`.padEnd(63, 'x'),
    addresses: Array.from(
      { length: 16 },
      () => `/ip6/2001:db8:1111:2222:3333:4444:5555:6666/tcp/65535/p2p/${PEER}`,
    ),
  }))
  const bytes = encodeHello({ name: 'self', addresses: [], members, removals: [] })
  const decoded = messageType('drover.mesh.Hello').decode(bytes) as unknown as { members: { name: string }[] }
  expect(bytes.length).toBeLessThanOrEqual(MAX_HELLO_BYTES)
  expect(decoded.members.length).toBeGreaterThan(64)
  expect(decoded.members[0]?.name).toMatch(/^node-0x/)
})

let node: TestNode
let mesh: Mesh
let raw: Libp2p

beforeEach(async () => {
  node = await startNode('honest')
  mesh = node.mesh
  raw = await startRawPeer(mesh.token())
})

afterEach(async () => {
  await raw.stop()
  await node[Symbol.asyncDispose]()
})

const sayHello = (bytes: Uint8Array) => sayHelloTo(raw, mesh, bytes)
const hello = helloBytes

const names = () => mesh.members().map(({ name }) => name)

test('a peer counts under the name that it gives itself', async () => {
  await sayHello(hello({}))
  await whenMembers(mesh, (members) => members.some(({ name, connected }) => name === 'guest' && connected))
  expect(mesh.resolve('guest')).toBe(raw.peerId.toString())
})

test('a later version with fields of its own is still a hello', async () => {
  const unknownField = Buffer.from([0xfa, 0x01, 0x02, 0x68, 0x69])
  await sayHello(Buffer.concat([hello({ version: 9 }), unknownField]))
  await whenMembers(mesh, (members) => members.length === 2)
})

test('what a peer says of others makes nobody a member', async () => {
  const liar = { peerId: PEER, name: 'bank', addresses: ['/ip4/127.0.0.1/tcp/9'] }
  await sayHello(hello({ members: [liar, { ...liar, peerId: mesh.peerId, name: 'usurper' }] }))
  await whenMembers(mesh, (members) => members.length === 2)
  expect(names()).toEqual(['honest', 'guest'])
  expect(() => mesh.resolve('bank')).toThrow(expect.objectContaining({ code: 'PEER_NOT_FOUND' }))
})

test('of the addresses that a peer gives, those that can be dialled are kept', async () => {
  await sayHello(
    hello({
      addresses: ['/ip4/192.0.2.1/tcp/1', '/dns4/example.org/tcp/1', 'x', `/ip4/192.0.2.2/tcp/1/p2p/${PEER}`],
    }),
  )
  await whenMembers(mesh, (members) => members.length === 2)
  expect(mesh.members()[1]?.addresses).toEqual([`/ip4/192.0.2.1/tcp/1/p2p/${raw.peerId}`])
})

test.for([
  ['no message', Buffer.alloc(100, 0xff)],
  ['nothing', new Uint8Array()],
  ['no version', hello({ version: 0 })],
  ['a path for a name', hello({ name: '../../etc' })],
  ['17 addresses', hello({ addresses: Array.from({ length: 17 }, () => '/ip4/192.0.2.1/tcp/1') })],
  [
    '257 members',
    hello({ members: Array.from({ length: 257 }, () => ({ peerId: PEER, name: 'x', addresses: [] })) }),
  ],
  ['a member without an id', hello({ members: [{ peerId: '', name: 'x', addresses: [] }] })],
  ['more than 128 KiB', hello({ name: 'x'.repeat(MAX_HELLO_BYTES) })],
])('a hello with %s is reset and makes no member', async ([, bytes]) => {
  await expect(sayHello(bytes as Uint8Array)).rejects.toMatchObject({ code: 'CHANNEL_RESET' })
  expect(names()).toEqual(['honest'])
})
