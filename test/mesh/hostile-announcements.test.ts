import { generateKeyPair } from '@libp2p/crypto/keys'
import type { PrivateKey, Record } from '@libp2p/interface'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { RecordEnvelope } from '@libp2p/peer-record'
import { multiaddr } from '@multiformats/multiaddr'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { type AnnouncementContent, packAnnouncement } from '../../src/mesh/announcement.ts'
import { sealAnnouncement } from '../../src/mesh/announcement-envelope.ts'
import { AnnouncementIntake } from '../../src/mesh/announcement-intake.ts'
import { StreamChannel } from '../../src/mesh/channel.ts'
import { Directory } from '../../src/mesh/directory.ts'
import { DIRECTORY_PROTOCOL } from '../../src/mesh/directory-exchange.ts'
import { ANNOUNCE_TOPIC } from '../../src/mesh/gossip.ts'
import { encodeHello, HELLO_PROTOCOL } from '../../src/mesh/hello.ts'
import type { Mesh } from '../../src/mesh/index.ts'
import { INVENTORY_PROTOCOL } from '../../src/mesh/inventory.ts'
import type { MeshNode } from '../../src/mesh/node.ts'
import { announcementCodec, MAX_ANNOUNCEMENT_BYTES } from '../../src/wire/announcement-message.ts'
import { directoryFrameCodec, inventoryFrameCodec } from '../../src/wire/directory-messages.ts'
import { messageType } from '../../src/wire/schema.ts'
import { startNode, type TestNode } from '../support/mesh-pair.ts'
import { someFacts, templateNo, vmNo } from '../support/node-facts.ts'
import { dialRaw, startRawPeer } from '../support/raw-peer.ts'

const DOMAIN = 'drover-announcement'
const PAYLOAD_TYPE = Buffer.from('/drover/announcement/1')

let node: TestNode
let mesh: Mesh
let key: PrivateKey
let raw: MeshNode

beforeEach(async () => {
  node = await startNode('honest')
  mesh = node.mesh
  key = await generateKeyPair('Ed25519')
  raw = await startRawPeer(mesh.token(), key)
})

afterEach(async () => {
  await raw.stop()
  await node[Symbol.asyncDispose]()
})

function content(sequence: number, changes: Partial<AnnouncementContent> = {}): AnnouncementContent {
  const facts = someFacts({ templates: [templateNo(1)], vms: [vmNo(1)] })
  return { incarnation: 1, sequence, validMs: 60_000, name: 'guest', addresses: [], facts, ...changes }
}

/** Signs anything, as anything. */
async function sealed(payload: Uint8Array, by: PrivateKey, { domain = DOMAIN, codec = PAYLOAD_TYPE } = {}) {
  const record: Record = { domain, codec, marshal: () => payload, equals: () => false }
  return await RecordEnvelope.seal(record, by)
}

/** An announcement with fields that no drover would write. */
function crafted(fields: object, tail: Uint8Array = new Uint8Array()): Uint8Array {
  const type = messageType('drover.mesh.Announcement')
  const plain = announcementCodec.decode(packAnnouncement(content(1)))
  return Buffer.concat([type.encode(type.fromObject({ ...plain, ...fields })).finish(), tail])
}

async function connectRaw(): Promise<void> {
  await raw.dial(mesh.addresses().map((address) => multiaddr(address)))
  await expect.poll(() => raw.services.gossip.getSubscribers(ANNOUNCE_TOPIC)).toHaveLength(1)
}

const publish = (bytes: Uint8Array) => raw.services.gossip.publish(ANNOUNCE_TOPIC, bytes)
const names = () => mesh.directory().map(({ name }) => name)

/** Padding that a later version might put there: field 100, bytes. */
function unknownField(bytes: number): Uint8Array {
  const type = messageType('drover.mesh.DirectoryRequest')
  const inner = type.encode(type.fromObject({ known: new Uint8Array(bytes) })).finish()
  // Field 2 of that message, as field 100 of this one: tag (100 << 3 | 2) as a varint.
  return Buffer.concat([Buffer.from([0xa2, 0x06]), inner.subarray(1)])
}

type Forge = (victim: PrivateKey) => Promise<Uint8Array>
const forgeries: [string, Forge][] = [
  ['nothing', async () => new Uint8Array()],
  ['no message', async () => Buffer.alloc(500, 0xff)],
  ['half of one', async (victim) => (await sealAnnouncement(content(1), victim)).subarray(0, 200)],
  ['more than 8 KiB', async (victim) => (await sealed(crafted({}, unknownField(8192)), victim)).marshal()],
  [
    'the key of another',
    async (victim) => {
      const { payload, payloadType, signature } = await sealed(crafted({}), key)
      return new RecordEnvelope({ publicKey: victim.publicKey, payload, payloadType, signature }).marshal()
    },
  ],
  [
    'a changed byte',
    async (victim) => {
      const envelope = await sealed(crafted({}), victim)
      envelope.payload = crafted({ name: 'mallory' })
      return envelope.marshal()
    },
  ],
  ...[0, 63, 65].map((bytes): [string, Forge] => [
    `a signature of ${bytes} bytes`,
    async (victim) => {
      const envelope = await sealed(crafted({}), victim)
      envelope.signature = new Uint8Array(bytes)
      return envelope.marshal()
    },
  ]),
  [
    'a signature for something else',
    async (victim) => (await sealed(crafted({}), victim, { domain: 'libp2p-peer-record' })).marshal(),
  ],
  [
    'another type',
    async (victim) => (await sealed(crafted({}), victim, { codec: Buffer.from([3, 1]) })).marshal(),
  ],
  [
    'a key that no drover has',
    async () => (await sealed(crafted({}), await generateKeyPair('secp256k1'))).marshal(),
  ],
  ...(
    [
      ['no version', { version: 0 }],
      ['a path for a name', { name: '../../etc' }],
      ['a validity of days', { validMs: 2 ** 31 }],
      ['nine addresses', { addresses: Array.from({ length: 9 }, () => '/ip4/192.0.2.1/tcp/1') }],
      ['65 templates', { templates: Array.from({ length: 65 }, () => Buffer.alloc(32)), templatesTotal: 65 }],
      ['a short digest', { templates: [Buffer.alloc(31)] }],
      ['fewer templates than it says', { templatesTotal: 2 }],
      ['a list and a filter', { templateFilter: Buffer.alloc(64) }],
      ['a filter of odd size', { templates: [], vms: [], templateFilter: Buffer.alloc(65) }],
      ['a VM of no template', { vms: [{ id: Buffer.alloc(16), name: 'a', template: 2, state: 1 }] }],
      ['a VM without a state', { vms: [{ id: Buffer.alloc(16), name: 'a', template: 1, state: 0 }] }],
      ['more VMs than it says', { vmsTotal: 0 }],
      ['no CPUs', { cpus: 0 }],
      ['a place with two axes', { coordinate: { axesUs: [1, 2], heightUs: 1, errorPermille: 1 } }],
      [
        'a place with 1000 axes',
        { coordinate: { axesUs: Array(1000).fill(0), heightUs: 1, errorPermille: 1 } },
      ],
      ['a place on the moon', { coordinate: { axesUs: [0, 0, 10_000_001], heightUs: 1, errorPermille: 1 } }],
      [
        'a place that is always wrong',
        { coordinate: { axesUs: [0, 0, 0], heightUs: 1, errorPermille: 1501 } },
      ],
    ] as [string, object][]
  ).map(([what, fields]): [string, Forge] => [
    what,
    async (victim) => (await sealed(crafted(fields), victim)).marshal(),
  ]),
]

test.for(forgeries)('gossip with %s is not taken in, and its sender is to blame', async ([, forge]) => {
  const victim = await generateKeyPair('Ed25519')
  await connectRaw()
  const bytes = await forge(victim)
  await publish(bytes)
  await publish(await sealAnnouncement(content(1), key))
  await expect.poll(names).toContain('guest')
  expect(names()).toEqual(['honest', 'guest'])
  expect(mesh.directory().map(({ peerId }) => peerId)).not.toContain(peerIdFromPrivateKey(victim).toString())
  const intake = new AnnouncementIntake({
    directory: new Directory({ selfId: mesh.peerId }),
    onEvent: () => {},
  })
  expect(await intake.offer(bytes, { from: raw.peerId.toString(), nowMs: 0, ageMs: 0 })).toBe('reject')
})

test('fields that a later version may have are passed over', async () => {
  await connectRaw()
  await publish((await sealed(crafted({ version: 7 }, unknownField(100)), key)).marshal())
  await expect.poll(names).toEqual(['honest', 'guest'])
})

test('what was said before does not undo what was said since', async () => {
  await connectRaw()
  const old = await sealAnnouncement(content(4, { name: 'old' }), key)
  await publish(await sealAnnouncement(content(5, { name: 'new' }), key))
  await expect.poll(names).toEqual(['honest', 'new'])
  await publish(old)
  await publish(await sealAnnouncement(content(9, { incarnation: 0, name: 'older' }), key))
  await publish(await sealAnnouncement(content(6, { name: 'newest' }), key))
  await expect.poll(names).toEqual(['honest', 'newest'])
})

test('of a flood no more is taken in than its author may say', async () => {
  await connectRaw()
  let taken = 0
  mesh.onDirectory(() => taken++)
  const startMs = performance.now()
  for (let sequence = 1; sequence <= 200; sequence++) {
    const facts = someFacts({ templates: [templateNo(sequence)] })
    await publish(await sealAnnouncement(content(sequence, { facts }), key))
  }
  await new Promise((resolve) => setTimeout(resolve, 300))
  const seconds = (performance.now() - startMs) / 1000
  expect(taken).toBeGreaterThanOrEqual(8)
  expect(taken).toBeLessThanOrEqual(Math.ceil(8 + 2 * seconds))
})

test('a flood is the fault of its author, not of those who pass it on', async () => {
  const directory = new Directory({ selfId: mesh.peerId })
  const intake = new AnnouncementIntake({ directory, onEvent: () => {} })
  const author = peerIdFromPrivateKey(key).toString()
  const offer = async (sequence: number, from: string) =>
    await intake.offer(await sealAnnouncement(content(sequence), key), { from, nowMs: 1000, ageMs: 0 })
  const verdicts: string[] = []
  for (let sequence = 1; sequence <= 40; sequence++) verdicts.push(await offer(sequence, mesh.peerId))
  expect(verdicts).toEqual(Array.from({ length: 40 }, (_, index) => (index < 8 ? 'accept' : 'ignore')))
  for (let sequence = 41; sequence <= 140; sequence++) verdicts.push(await offer(sequence, author))
  expect(verdicts.at(-1)).toBe('reject')
  expect(await offer(141, mesh.peerId)).toBe('ignore')
})

test('a copy of what is known is worth nothing, whoever it came from', async () => {
  const intake = new AnnouncementIntake({ directory: new Directory({ selfId: 'me' }), onEvent: () => {} })
  const bytes = await sealAnnouncement(content(1), key)
  const offer = () => intake.offer(bytes, { from: 'somebody', nowMs: 0, ageMs: 0 })
  expect(await Promise.all([offer(), offer(), offer()])).toEqual(['accept', 'ignore', 'ignore'])
})

test('what is handed on after its time says nothing, and does not silence its author', async () => {
  const directory = new Directory({ selfId: 'me' })
  const intake = new AnnouncementIntake({ directory, onEvent: () => {} })
  const bytes = await sealAnnouncement(content(1), key)
  expect(await intake.offer(bytes, { from: 'liar', nowMs: 0, ageMs: 1e12 })).toBe('ignore')
  expect(await intake.offer(bytes, { from: 'gossip', nowMs: 1, ageMs: 0 })).toBe('accept')
})

/** Greets the node as a member does: then it asks for the directory. */
async function greet(): Promise<void> {
  const channel = new StreamChannel(await dialRaw(raw, mesh, HELLO_PROTOCOL), mesh.peerId)
  const signal = AbortSignal.timeout(10_000)
  await channel.send(encodeHello({ name: 'guest', addresses: [], members: [], removals: [] }), { signal })
  await channel.receive({ maxBytes: 65_536, signal })
  await channel.close()
}

type Answer = (channel: StreamChannel) => Promise<void>

/** What the peer answers on a protocol, once it was asked; resolves with how the stream ended: null without an error. */
async function answering(
  protocol: string,
  answer: Answer,
): Promise<{ ended: Promise<{ error: Error | null; bytes: number }> }> {
  const ended = Promise.withResolvers<{ error: Error | null; bytes: number }>()
  await raw.handle(protocol, async (stream) => {
    const channel = new StreamChannel(stream, mesh.peerId)
    stream.addEventListener('close', ({ error }) =>
      ended.resolve({ error: error ?? null, bytes: channel.bytesSent }),
    )
    await channel.receive({ maxBytes: 65_536 })
    await answer(channel).catch(() => undefined)
  })
  return { ended: ended.promise }
}

const reset = { code: 'CHANNEL_RESET' }
const MIB = 1024 * 1024

async function heldBy(by: PrivateKey): Promise<Uint8Array> {
  return directoryFrameCodec.encode({
    held: [{ envelope: await sealAnnouncement(content(1, { name: 'handed-on' }), by), ageMs: 5 }],
  })
}

test.for([
  [
    'that never ends',
    async (channel) => {
      const frame = await heldBy(key)
      for (;;) await channel.send(frame)
    },
  ],
  ['with a frame of 1 MiB', (channel) => channel.send(Buffer.alloc(MIB))],
  ['with no message', (channel) => channel.send(Buffer.alloc(100, 0xff))],
  ['with an empty frame', (channel) => channel.send(new Uint8Array())],
  [
    'with a forgery',
    async (channel) => {
      const { payload, payloadType, signature } = await sealed(crafted({}), key)
      const { publicKey } = await generateKeyPair('Ed25519')
      const envelope = new RecordEnvelope({ publicKey, payload, payloadType, signature }).marshal()
      await channel.send(directoryFrameCodec.encode({ held: [{ envelope, ageMs: 0 }] }))
    },
  ],
] as [string, Answer][])('a directory %s is cut off', async ([, answer]) => {
  const { ended } = await answering(DIRECTORY_PROTOCOL, answer)
  await greet()
  const { error, bytes } = await ended
  expect(error).toBeInstanceOf(Error)
  // What is taken, and what lay in windows on the way.
  expect(bytes).toBeLessThan(16 * MIB)
  expect(names().filter((name) => name !== 'handed-on')).toEqual(['honest'])
})

test('a directory that is honest is taken in, and asked for once', async () => {
  const other = await generateKeyPair('Ed25519')
  let asked = 0
  const { ended } = await answering(DIRECTORY_PROTOCOL, async (channel) => {
    asked++
    await channel.send(await heldBy(other))
    await channel.send(
      directoryFrameCodec.encode({ held: [{ envelope: await sealAnnouncement(content(1), key), ageMs: 0 }] }),
    )
    await channel.close()
  })
  await greet()
  expect(await ended).toMatchObject({ error: null })
  await expect.poll(names).toEqual(['honest', 'guest', 'handed-on'])
  await greet()
  await new Promise((resolve) => setTimeout(resolve, 100))
  expect(asked).toBe(1)
})

const oneTemplate = { templates: [{ id: templateNo(1), names: ['web'], memoryBytes: 1 }], vms: [] }

test.for([
  [
    'that never ends',
    async (channel) => {
      const templates = Array.from({ length: 100 }, () => oneTemplate.templates[0]!)
      for (;;) await channel.send(inventoryFrameCodec.encode({ templates, vms: [] }))
    },
    'MESSAGE_TOO_LARGE',
  ],
  ['with a frame of 1 MiB', (channel) => channel.send(Buffer.alloc(MIB)), 'MESSAGE_TOO_LARGE'],
  ['with no message', (channel) => channel.send(Buffer.alloc(100, 0xff)), 'MESSAGE_MALFORMED'],
  ['with an empty frame', (channel) => channel.send(new Uint8Array()), 'MESSAGE_MALFORMED'],
  [
    'with a path for an id',
    (channel) => {
      const type = messageType('drover.mesh.InventoryFrame')
      const bad = { templates: [{ ...oneTemplate.templates[0], id: '../../etc' }] }
      return channel.send(type.encode(type.fromObject(bad)).finish())
    },
    'MESSAGE_MALFORMED',
  ],
] as [string, Answer, string][])('an inventory %s is %s', async ([, answer, code]) => {
  const { ended } = await answering(INVENTORY_PROTOCOL, answer)
  await connectRaw()
  const asking = mesh.inventoryOf(raw.peerId.toString(), { signal: AbortSignal.timeout(10_000) })
  await expect(asking).rejects.toMatchObject({ code })
  expect((await ended).error).toBeInstanceOf(Error)
})

test('an inventory that does not come is waited for no longer than the caller wants', async () => {
  await answering(INVENTORY_PROTOCOL, () => new Promise(() => {}))
  await connectRaw()
  const asking = mesh.inventoryOf(raw.peerId.toString(), { signal: AbortSignal.timeout(200) })
  await expect(asking).rejects.toMatchObject({ name: 'TimeoutError' })
})

test.for([
  [DIRECTORY_PROTOCOL, 'nothing', null],
  [DIRECTORY_PROTOCOL, 'too much', Buffer.alloc(40_000)],
  [DIRECTORY_PROTOCOL, 'half a digest', Buffer.from([8, 1, 18, 3, 1, 2, 3])],
  [DIRECTORY_PROTOCOL, 'no message', Buffer.alloc(20, 0xff)],
  [INVENTORY_PROTOCOL, 'nothing', null],
  [INVENTORY_PROTOCOL, 'too much', Buffer.alloc(100)],
  [INVENTORY_PROTOCOL, 'no message', Buffer.alloc(20, 0xff)],
] as const)('%s asked with %s is reset', async ([protocol, , request]) => {
  const channel = new StreamChannel(await dialRaw(raw, mesh, protocol), mesh.peerId)
  if (request !== null) await channel.send(request)
  await channel.close()
  await expect(channel.receive({ maxBytes: MAX_ANNOUNCEMENT_BYTES })).rejects.toMatchObject(reset)
})
