import { randomBytes } from 'node:crypto'
import type { Connection } from '@libp2p/interface'
import { MeshError } from './errors.ts'

const PING_PROTOCOL = '/ipfs/ping/1.0.0'
/** The other side echoes so many bytes at a time (libp2p's ping specification). */
const PING_BYTES = 32

/**
 * One round trip over an open connection, in fractions of a millisecond;
 * libp2p's own ping counts whole ones, which are all zero in a LAN.
 *
 * @throws MeshError PEER_UNREACHABLE; the signal's reason
 */
export async function measureRttMs(connection: Connection, signal: AbortSignal): Promise<number> {
  const peer = connection.remotePeer.toString()
  try {
    const stream = await connection.newStream([PING_PROTOCOL], { signal })
    const ended = Promise.withResolvers<Error | null>()
    const onAbort = () => stream.abort(signal.reason)
    signal.addEventListener('abort', onAbort, { once: true })
    let missingBytes = PING_BYTES
    stream.addEventListener('message', ({ data }) => {
      missingBytes -= data.byteLength
      if (missingBytes <= 0) ended.resolve(null)
    })
    stream.addEventListener('close', ({ error }) =>
      ended.resolve(error ?? new Error('the connection was lost')),
    )
    try {
      const startMs = performance.now()
      stream.send(randomBytes(PING_BYTES))
      const failure = await ended.promise
      const rttMs = performance.now() - startMs
      if (failure !== null) throw failure
      await stream.close({ signal })
      return rttMs
    } finally {
      signal.removeEventListener('abort', onAbort)
    }
  } catch (cause) {
    signal.throwIfAborted()
    throw new MeshError('PEER_UNREACHABLE', `no answer to a ping of ${peer}`, { cause, details: { peer } })
  }
}
