/** Removals that nobody signed, or who may not: from a peer that has the mesh key and says what it likes. */
import { generateKeyPair } from '@libp2p/crypto/keys'
import type { PrivateKey } from '@libp2p/interface'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { RecordEnvelope } from '@libp2p/peer-record'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { MemberEvent, MeshLog } from '../../src/mesh/index.ts'
import type { MeshNode } from '../../src/mesh/node.ts'
import { sealRemoval } from '../../src/mesh/removal-envelope.ts'
import { helloCodec, MAX_REMOVAL_BYTES, MAX_REMOVALS, removalCodec } from '../../src/wire/mesh-messages.ts'
import { startNode, type TestNode, whenMembers } from '../support/mesh-pair.ts'
import { helloBytes, sayHelloTo, startRawPeer } from '../support/raw-peer.ts'

const DOMAIN = 'drover-removal'
const PAYLOAD_TYPE = Buffer.from('/drover/removal/1')

let node: TestNode
let events: MemberEvent[]
let warnings: string[]
let untrusted: PrivateKey
let key: PrivateKey
let victim: PrivateKey
let raw: MeshNode

const idOf = (privateKey: PrivateKey) => peerIdFromPrivateKey(privateKey).toString()

beforeEach(async () => {
  key = await generateKeyPair('Ed25519')
  victim = await generateKeyPair('Ed25519')
  untrusted = await generateKeyPair('Ed25519')
  events = []
  warnings = []
  const log: MeshLog = { debug: () => {}, info: () => {}, warn: (_facts, message) => warnings.push(message) }
  node = await startNode('honest', { log, mayRemove: (peerId) => peerId !== idOf(untrusted) })
  node.mesh.onMember((event) => events.push(event))
  raw = await startRawPeer(node.mesh.token(), key)
})

afterEach(async () => {
  await raw.stop()
  await node[Symbol.asyncDispose]()
})

const payload = (peerId: string) => removalCodec.encode({ version: 1, peerId, atMs: 1 })
const payloadOf = (of: PrivateKey) => payload(idOf(of))

async function sealed(bytes: Uint8Array, { domain = DOMAIN, codec = PAYLOAD_TYPE } = {}) {
  return RecordEnvelope.seal({ domain, codec, marshal: () => bytes, equals: () => false }, key)
}

const removed = () => events.flatMap(({ kind, peerId }) => (kind === 'member-removed' ? [peerId] : []))
const removal = (of: PrivateKey, by = key) => sealRemoval({ peerId: idOf(of), atMs: 1 }, by)
const say = (removals: Uint8Array[]) => sayHelloTo(raw, node.mesh, helloBytes({ removals }))

test('a removal counts by whom it is signed, whoever hands it on, and once', async () => {
  const author = await generateKeyPair('Ed25519')
  const bytes = await removal(victim, author)
  await say([bytes])
  expect(removed()).toEqual([idOf(victim)])
  expect(events[0]).toMatchObject({ by: idOf(author) })
  await say([bytes, await removal(victim)])
  expect(removed()).toEqual([idOf(victim)])
})

test('of a removal by who may not, nothing comes, and nothing is handed on', async () => {
  await say([await removal(victim, untrusted)])
  expect(removed()).toEqual([])
  expect(await heard()).toMatchObject({ removals: [] })
  await say([await removal(victim)])
  expect(removed()).toEqual([idOf(victim)])
  expect(await heard()).toMatchObject({ removals: [expect.anything()] })
})

/** What the node tells of itself. */
async function heard() {
  return helloCodec.decode((await say([]))!)
}

type Forgery = [what: string, bytes: () => Promise<Uint8Array>]

test.for([
  [
    'signed by another key',
    async () => {
      const { payloadType, payload, signature } = await sealed(payloadOf(untrusted))
      return new RecordEnvelope({
        publicKey: victim.publicKey,
        payloadType,
        payload,
        signature,
      }).marshal()
    },
  ],
  [
    'changed after it was signed',
    async () => {
      const { publicKey, payloadType, signature } = await sealed(payload(idOf(untrusted)))
      return new RecordEnvelope({
        publicKey,
        payloadType,
        payload: payloadOf(victim),
        signature,
      }).marshal()
    },
  ],
  [
    'signed as something else',
    async () => (await sealed(payloadOf(victim), { domain: 'drover-announcement' })).marshal(),
  ],
  [
    'of another type',
    async () => (await sealed(payloadOf(victim), { codec: Buffer.from('/drover/announcement/1') })).marshal(),
  ],
  ['of its author', () => removal(key)],
  ['of no peer', async () => (await sealed(payload('1'.repeat(40)))).marshal()],
  ['of a path', async () => (await sealed(Buffer.from('\x08\x01\x12\x09../../etc'))).marshal()],
  ['that is noise', async () => Buffer.alloc(100, 0xff)],
  ['that is empty', async () => new Uint8Array()],
  ['that is too long', async () => Buffer.concat([await removal(victim), Buffer.alloc(MAX_REMOVAL_BYTES)])],
] as Forgery[])('a hello with a removal %s is reset, and makes no member', async ([, bytes]) => {
  await expect(say([await bytes()])).rejects.toMatchObject({ code: 'CHANNEL_RESET' })
  expect(events).toEqual([])
})

test('what is right beside a forgery counts, and the forger is no member', async () => {
  await expect(say([await removal(victim), Buffer.alloc(9)])).rejects.toMatchObject({ code: 'CHANNEL_RESET' })
  expect(node.mesh.members()).toHaveLength(1)
})

test('more removals than a mesh may have are refused, and none is lost', async () => {
  const many = await Promise.all(
    Array.from({ length: MAX_REMOVALS + 1 }, async () => removal(await generateKeyPair('Ed25519'))),
  )
  await expect(say(many)).rejects.toMatchObject({ code: 'CHANNEL_RESET' })
  expect(removed()).toEqual([])
  await say(many.slice(0, MAX_REMOVALS))
  expect(removed()).toHaveLength(MAX_REMOVALS)
  await say(many.slice(MAX_REMOVALS))
  expect(removed()).toHaveLength(MAX_REMOVALS)
  await expect(node.mesh.remove(idOf(victim))).rejects.toMatchObject({ code: 'TOO_MANY_REMOVALS' })
  expect(await heard()).toMatchObject({ removals: { length: MAX_REMOVALS } })
})

test('a node that is removed says so, and once', async () => {
  const bytes = await sealRemoval({ peerId: node.mesh.peerId, atMs: 1 }, key)
  await say([bytes])
  await say([bytes])
  await whenMembers(node.mesh, (members) => members.length === 2)
  expect(events.filter(({ kind }) => kind === 'removed-from-mesh')).toEqual([
    { kind: 'removed-from-mesh', peerId: node.mesh.peerId, name: 'honest', by: idOf(key) },
  ])
  expect(warnings).toContain('this node was removed from its mesh: others refuse it')
})
