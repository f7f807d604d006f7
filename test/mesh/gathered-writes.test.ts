import { once } from 'node:events'
import { type AddressInfo, createConnection, createServer, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { ConnectionEncrypter, MessageStream, SecuredConnection } from '@libp2p/interface'
import { expect, test } from 'vitest'
import { gatheredWrites } from '../../src/mesh/gathered-writes.ts'

/** A connection as @libp2p/tcp makes it, as far as it is looked at. */
class TcpConnection {
  readonly socket: Socket

  constructor(socket: Socket) {
    this.socket = socket
  }

  send(data: Iterable<Uint8Array>): boolean {
    let canSendMore = true
    for (const part of data) canSendMore = this.socket.write(part)
    return canSendMore
  }
}

/** An encrypter that hands out what it was given. */
const plain = (): ConnectionEncrypter => {
  const secure = async (connection: MessageStream) => ({ connection }) as unknown as SecuredConnection
  return {
    protocol: '/plain',
    secureInbound: secure,
    secureOutbound: secure,
  } as unknown as ConnectionEncrypter
}

test.each(['secureInbound', 'secureOutbound'] as const)(
  '%s: what is sent in one turn arrives together, and what is sent later by itself',
  async (secure) => {
    const server = createServer().listen(0, '127.0.0.1')
    await once(server, 'listening')
    const client = createConnection((server.address() as AddressInfo).port, '127.0.0.1').setNoDelay()
    const [accepted] = (await once(server, 'connection')) as [Socket]
    const chunks: string[] = []
    accepted.on('data', (chunk) => chunks.push(chunk.toString()))
    const tcp = new TcpConnection(client) as unknown as Parameters<ConnectionEncrypter['secureInbound']>[0]
    const encrypter = gatheredWrites(plain)({})
    expect(encrypter.protocol).toBe('/plain')
    const { connection } = await encrypter[secure](tcp)
    const send = (...parts: string[]) =>
      connection.send(parts.map((part) => Buffer.from(part)) as unknown as Uint8Array)

    send('2', 'message')
    send('3', 'answer')
    await Promise.resolve()
    send('4', 'window')
    await sleep(50)
    send('5', 'later')
    await sleep(50)
    expect(chunks).toEqual(['2message3answer4window', '5later'])
    client.destroy()
    server.close()
  },
)
