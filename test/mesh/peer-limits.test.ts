/** What one peer may make a node do: channels per second, and lines in its log. */
import { expect, test } from 'vitest'
import type { MeshLog } from '../../src/mesh/index.ts'
import { PeerLines } from '../../src/mesh/peer-log.ts'
import { startNode, whenConnected } from '../support/mesh-pair.ts'

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
