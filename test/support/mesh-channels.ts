import { randomUUID } from 'node:crypto'
import type { Mesh } from '../../src/mesh/index.ts'
import type { Channel } from '../../src/wire/channel.ts'

export interface MeshChannel extends AsyncDisposable {
  left: Channel
  right: Channel
}

/** Both ends of a new channel from one node to another, for a test to hold. */
export async function openBothEnds(from: Mesh, to: Mesh): Promise<MeshChannel> {
  const protocol = `/drover/test/${randomUUID()}`
  const accepted = Promise.withResolvers<Channel>()
  const finished = Promise.withResolvers<void>()
  await to.handle(protocol, async (channel, signal) => {
    accepted.resolve(channel)
    signal.addEventListener('abort', () => finished.resolve(), { once: true })
    await finished.promise
  })
  const left = await from.open(to.peerId, protocol, AbortSignal.timeout(10_000))
  const right = await accepted.promise
  const dispose = async () => {
    left.abort(new Error('the test is over'))
    finished.resolve()
  }
  return { left, right, [Symbol.asyncDispose]: dispose }
}
