import { once } from 'node:events'
import type { Libp2p, Stream } from '@libp2p/interface'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { StreamChannel } from '../../src/mesh/channel.ts'
import type { Mesh } from '../../src/mesh/index.ts'
import type { Channel } from '../../src/wire/channel.ts'
import { openBothEnds } from '../support/mesh-channels.ts'
import { type MeshGroup, startMesh } from '../support/mesh-pair.ts'
import { dialRaw, startRawPeer } from '../support/raw-peer.ts'
import { channelSuite } from '../wire/channel-suite.ts'

const MIB = 1024 * 1024

let group: MeshGroup
let left: Mesh
let right: Mesh
let raw: Libp2p

beforeAll(async () => {
  group = await startMesh(2)
  left = group.nodes[0]!
  right = group.nodes[1]!
  raw = await startRawPeer(left.token())
})

afterAll(async () => {
  await raw.stop()
  await group[Symbol.asyncDispose]()
})

channelSuite('a libp2p stream', {
  open: () => openBothEnds(left, right),
  peers: () => [left.peerId, right.peerId],
  // Two windows of 4 MiB, what is read ahead, the message under way.
  maxUnreadBytes: 10 * MIB,
})

/** A stream that a peer writes as it likes, and the channel that it is to the node. */
async function fromRawPeer(name: string): Promise<{ stream: Stream; channel: Channel; done: () => void }> {
  const accepted = Promise.withResolvers<Channel>()
  const done = Promise.withResolvers<void>()
  await left.handle(`/drover/raw/${name}`, async (channel) => {
    accepted.resolve(channel)
    await done.promise
  })
  const stream = await dialRaw(raw, left, `/drover/raw/${name}`)
  return { stream, channel: await accepted.promise, done: done.resolve }
}

test('a length of 4 GiB is refused when it is read', async () => {
  const { stream, channel, done } = await fromRawPeer('huge')
  stream.send(Buffer.from([0xff, 0xff, 0xff, 0xff]))
  await expect(channel.receive({ maxBytes: MIB })).rejects.toMatchObject({ code: 'MESSAGE_TOO_LARGE' })
  expect(channel.bytesReceived).toBe(0)
  done()
})

test('a peer that says 4 GiB and sends on is stopped long before', async () => {
  const { stream, channel, done } = await fromRawPeer('flood')
  stream.send(Buffer.from([0xff, 0xff, 0xff, 0xff]))
  stream.send(Buffer.alloc(64 * MIB))
  await expect(channel.receive({ maxBytes: MIB })).rejects.toMatchObject({ code: 'MESSAGE_TOO_LARGE' })
  await new Promise((resolve) => setTimeout(resolve, 500))
  expect(stream.writeBufferLength).toBeGreaterThan(50 * MIB)
  expect(stream.status).toBe('open')
  channel.abort(new Error('too large'))
  await once(stream as unknown as EventTarget, 'close')
  done()
})

test('a message in pieces of one byte is one message', async () => {
  const { stream, channel, done } = await fromRawPeer('pieces')
  const receiving = channel.receive({ maxBytes: 100 })
  for (const byte of [0, 0, 0, 5, ...Buffer.from('hello')]) stream.send(Buffer.from([byte]))
  expect(Buffer.from((await receiving)!).toString()).toBe('hello')
  done()
})

test.for([
  ['inside a header', [0, 0]],
  ['inside a message', [0, 0, 0, 5, 1]],
] as const)('an end %s is no end', async ([name, bytes]) => {
  const { stream, channel, done } = await fromRawPeer(name.replaceAll(' ', '-'))
  stream.send(Buffer.from(bytes))
  await stream.close()
  await expect(channel.receive({ maxBytes: 100 })).rejects.toMatchObject({ code: 'CHANNEL_RESET' })
  done()
})

test('a reset inside a message is a reset', async () => {
  const { stream, channel, done } = await fromRawPeer('reset')
  stream.send(Buffer.from([0, 0, 0, 5, 1]))
  const receiving = channel.receive({ maxBytes: 100 })
  stream.abort(new Error('gone'))
  await expect(receiving).rejects.toMatchObject({ code: 'CHANNEL_RESET' })
  done()
})

test('a connection that is lost is a reset, not an end', async () => {
  const other = await startRawPeer(left.token())
  const accepted = Promise.withResolvers<Channel>()
  const done = Promise.withResolvers<void>()
  await left.handle('/drover/raw/lost', async (channel) => {
    accepted.resolve(channel)
    await done.promise
  })
  await dialRaw(other, left, '/drover/raw/lost')
  const channel = await accepted.promise
  const receiving = channel.receive({ maxBytes: 100 })
  for (const connection of other.getConnections()) connection.abort(new Error('the cable was cut'))
  await expect(receiving).rejects.toMatchObject({ code: 'CHANNEL_RESET' })
  await expect(channel.send(Buffer.from('x'))).rejects.toMatchObject({ code: 'CHANNEL_RESET' })
  done.resolve()
  await other.stop()
})

test('a channel that nobody reads does not hold up another one', async () => {
  await using unread = await openBothEnds(left, right)
  await using busy = await openBothEnds(left, right)
  const stuck = (async () => {
    for (;;) await unread.left.send(Buffer.alloc(MIB))
  })()
  const sending = (async () => {
    for (let index = 0; index < 64; index++) await busy.left.send(Buffer.alloc(MIB, index))
    await busy.left.close()
  })()
  let messages = 0
  while ((await busy.right.receive({ maxBytes: MIB })) !== null) messages++
  await sending
  expect(messages).toBe(64)
  expect(unread.left.bytesSent).toBeLessThan(12 * MIB)
  unread.left.abort(new Error('enough'))
  await expect(stuck).rejects.toThrow('enough')
})

test('a reader by fits and starts gets every byte', async () => {
  await using ends = await openBothEnds(left, right)
  const count = 40
  const sending = (async () => {
    for (let index = 0; index < count; index++) await ends.left.send(Buffer.alloc(700_000 + index, index))
    await ends.left.close()
  })()
  for (let index = 0; index < count; index++) {
    if (index % 7 === 3) await new Promise((resolve) => setTimeout(resolve, 50))
    const message = await ends.right.receive({ maxBytes: MIB })
    expect(message).toHaveLength(700_000 + index)
    expect([message!.at(0), message!.at(-1)]).toEqual([index, index])
  }
  expect(await ends.right.receive({ maxBytes: MIB })).toBeNull()
  await sending
})

test('what was sent before both ends closed can be read long after', async () => {
  await using ends = await openBothEnds(left, right)
  // More than is read ahead, less than that and a fresh window: the rest waits in a paused stream.
  const bytes = 150_000
  for (let index = 0; index < 3; index++) await ends.left.send(Buffer.alloc(bytes, index))
  await Promise.all([ends.left.close(), ends.right.close()])
  await new Promise((resolve) => setTimeout(resolve, 100))
  for (let index = 0; index < 3; index++) {
    expect((await ends.right.receive({ maxBytes: bytes }))?.at(-1)).toBe(index)
  }
  expect(await ends.right.receive({ maxBytes: bytes })).toBeNull()
})

test('a reader that takes a little and stops is not swamped', async () => {
  await using ends = await openBothEnds(left, right)
  const bytes = 65_536
  const count = 400
  const sending = (async () => {
    for (let index = 0; index < count; index++) await ends.left.send(Buffer.alloc(bytes, index))
    await ends.left.close()
  })()
  let read = 0
  for (const stop of [6, 12, 18]) {
    for (; read < stop; read++) await ends.right.receive({ maxBytes: bytes })
    await new Promise((resolve) => setTimeout(resolve, 300))
  }
  expect(ends.left.bytesSent).toBeLessThan(12 * MIB)
  for (; read < count; read++)
    expect((await ends.right.receive({ maxBytes: bytes }))?.at(-1)).toBe(read & 0xff)
  expect(await ends.right.receive({ maxBytes: bytes })).toBeNull()
  await sending
})

test('what came before anybody took the stream over is not lost, nor is the end', async () => {
  const accepted = Promise.withResolvers<Stream>()
  await raw.handle('/drover/raw/late', (stream) => accepted.resolve(stream))
  const channel = await left.open(raw.peerId.toString(), '/drover/raw/late', AbortSignal.timeout(10_000))
  await channel.send(Buffer.from('early'))
  await channel.close()
  const stream = await accepted.promise
  while (stream.remoteWriteStatus !== 'closed') await new Promise((resolve) => setTimeout(resolve, 10))
  const late = new StreamChannel(stream, left.peerId)
  expect(Buffer.from((await late.receive({ maxBytes: 10 }))!).toString()).toBe('early')
  expect(await late.receive({ maxBytes: 10 })).toBeNull()
  await late.close()
})
