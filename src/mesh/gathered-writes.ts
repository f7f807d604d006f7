import type { Socket } from 'node:net'
import type { ConnectionEncrypter, MessageStream } from '@libp2p/interface'

/**
 * Gathers what is sent on a TCP connection in one turn of the event loop.
 *
 * noise gives its transport each message as a list, the length of 2 bytes
 * first, and @libp2p/tcp 11 writes each element by itself, without Nagle: a
 * control message of 40 bytes and yamux's window update for it were five
 * packets of 66 bytes of headers each. Corked, they are one `writev`, and one
 * packet. The turn ends after all that has arrived was looked at, so answers
 * lose no time.
 */
export function gatheredWrites<C, E>(
  encrypter: (components: C) => ConnectionEncrypter<E>,
): (components: C) => ConnectionEncrypter<E> {
  return (components) => {
    const inner = encrypter(components)
    return Object.assign(Object.create(inner) as ConnectionEncrypter<E>, {
      secureInbound: (...[connection, options]: Parameters<typeof inner.secureInbound>) =>
        inner.secureInbound(gathering(connection), options),
      secureOutbound: (...[connection, options]: Parameters<typeof inner.secureOutbound>) =>
        inner.secureOutbound(gathering(connection), options),
    })
  }
}

function gathering<S extends MessageStream>(connection: S): S {
  // Not in the interface: a connection without one sends as it always did.
  const { socket } = connection as { socket?: Socket }
  if (socket === undefined) return connection
  const send = connection.send.bind(connection)
  let isGathering = false
  connection.send = (data) => {
    if (!isGathering) {
      isGathering = true
      socket.cork()
      setImmediate(() => {
        isGathering = false
        socket.uncork()
      })
    }
    return send(data)
  }
  return connection
}
