/** What one peer may make a node do: channels per second, and lines in its log. */
import { multiaddr } from '@multiformats/multiaddr'
import { expect, test } from 'vitest'
import { StreamChannel } from '../../src/mesh/channel.ts'
import type { MeshLog } from '../../src/mesh/index.ts'
import { PeerLines } from '../../src/mesh/peer-log.ts'
import { startNode, whenConnected } from '../support/mesh-pair.ts'
import { startRawPeer } from '../support/raw-peer.ts'

const soon = () => AbortSignal.timeout(10_000)

test('channels that come faster than a protocol allows are reset; another peer is not concerned', async () => {
  await using first = await startNode('first')
  const joinToken = first.mesh.token()
  await using second = await startNode('second', { joinToken })
  await using third = await startNode('third', { joinToken })
  await Promise.all([whenConnected(second.mesh, 3), whenConnected(third.mesh, 3)])
  await first.mesh.handle('/drover/rare/1', (channel) => channel.send(Buffer.from('in')), {
    rate: { burst: 5, perSecond: 0.001 },
  })
  const opened = async (from: typeof second.mesh) => {
    const channel = await from.open(first.mesh.peerId, '/drover/rare/1', soon())
    const answer = await channel.receive({ maxBytes: 10 }).catch((error: { code: string }) => error.code)
    channel.abort(new Error('seen'))
    return answer instanceof Uint8Array ? 'in' : answer
  }
  const answers: unknown[] = []
  for (let index = 0; index < 8; index++) answers.push(await opened(second.mesh))
  expect(answers).toEqual([...Array(5).fill('in'), ...Array(3).fill('CHANNEL_RESET')])
  expect(await opened(third.mesh)).toBe('in')
})

test('a peer whose channels fail all the time writes so many lines, and no more', async () => {
  const lines: object[] = []
  const log: MeshLog = { debug: () => {}, info: () => {}, warn: (facts) => lines.push(facts) }
  await using first = await startNode('first', { log })
  await using second = await startNode('second', { joinToken: first.mesh.token() })
  await whenConnected(second.mesh, 2)
  await first.mesh.handle('/drover/fails/1', async () => {
    throw new Error('no')
  })
  for (let index = 0; index < 100; index++) {
    const channel = await second.mesh.open(first.mesh.peerId, '/drover/fails/1', soon())
    await expect(channel.receive({ maxBytes: 10 })).rejects.toMatchObject({ code: 'CHANNEL_RESET' })
  }
  expect(lines).toHaveLength(32)
})

test('a peer has so many connections, and so many channels over all of them', async () => {
  await using first = await startNode('first')
  const until = Promise.withResolvers<void>()
  await first.mesh.handle(
    '/drover/few/1',
    (channel) => channel.send(Buffer.from('in')).then(() => until.promise),
    {
      maxInboundStreams: 2,
    },
  )
  const raw = await startRawPeer(first.mesh.token())
  try {
    const addresses = first.mesh.addresses().map((address) => multiaddr(address))
    for (let index = 0; index < 12; index++) {
      // What is too many is cut as soon as it is there.
      await raw.dial(addresses, { force: true }).catch(() => null)
    }
    await expect.poll(() => raw.getConnections().length).toBe(8)
    const answers: unknown[] = []
    for (const connection of raw.getConnections().slice(0, 3)) {
      const channel = new StreamChannel(await connection.newStream('/drover/few/1'), first.mesh.peerId)
      const answer = await channel.receive({ maxBytes: 10 }).catch((error: { code: string }) => error.code)
      answers.push(answer instanceof Uint8Array ? 'in' : answer)
    }
    expect(answers).toEqual(['in', 'in', 'CHANNEL_RESET'])
  } finally {
    until.resolve()
    await raw.stop()
  }
})

test('a line says how many before it were left out', () => {
  const lines = new PeerLines({ burst: 1, perSecond: 1 })
  const at = (nowMs: number) => lines.admit('peer', { a: 1 }, nowMs)
  expect([at(0), at(1), at(2), at(2000), at(4000)]).toEqual([
    { a: 1 },
    null,
    null,
    { a: 1, leftOut: 2 },
    { a: 1 },
  ])
  expect(lines.admit('another', { a: 1 }, 4000)).toEqual({ a: 1 })
})
