import { generateKeyPair } from '@libp2p/crypto/keys'
import type { Libp2p, PrivateKey, Stream } from '@libp2p/interface'
import { multiaddr } from '@multiformats/multiaddr'
import { StreamChannel } from '../../src/mesh/channel.ts'
import { HELLO_PROTOCOL } from '../../src/mesh/hello.ts'
import type { Mesh } from '../../src/mesh/index.ts'
import { decodeJoinToken } from '../../src/mesh/join-token.ts'
import { createNode, type MeshNode } from '../../src/mesh/node.ts'
import { MAX_HELLO_BYTES } from '../../src/wire/mesh-messages.ts'
import { messageType } from '../../src/wire/schema.ts'

/** Somebody who has the mesh key but none of drover's manners. */
export async function startRawPeer(token: string, privateKey?: PrivateKey): Promise<MeshNode> {
  const { meshKey } = decodeJoinToken(token)
  const node = await createNode(privateKey ?? (await generateKeyPair('Ed25519')), {
    meshKey,
    listen: ['/ip4/127.0.0.1/tcp/0'],
    isRemoved: () => false,
  })
  await node.start()
  return node
}

/** A stream of a raw peer to a node. */
export async function dialRaw(peer: Libp2p, to: Mesh, protocol: string): Promise<Stream> {
  return peer.dialProtocol(
    to.addresses().map((address) => multiaddr(address)),
    protocol,
    {
      signal: AbortSignal.timeout(10_000),
    },
  )
}

/** A hello with fields that no drover might write. */
export function helloBytes(fields: object): Uint8Array {
  const type = messageType('drover.mesh.Hello')
  return type
    .encode(type.fromObject({ version: 1, name: 'guest', addresses: [], members: [], ...fields }))
    .finish()
}

/** Says hello as the dialling side does, and waits for the answer or the reset. */
export async function sayHelloTo(peer: Libp2p, to: Mesh, bytes: Uint8Array): Promise<Uint8Array | null> {
  const channel = new StreamChannel(await dialRaw(peer, to, HELLO_PROTOCOL), to.peerId)
  const signal = AbortSignal.timeout(10_000)
  await channel.send(bytes, { signal })
  const answer = await channel.receive({ maxBytes: MAX_HELLO_BYTES, signal })
  await channel.close()
  // The node ends its side when it has taken the hello, and resets it when it has not.
  await channel.receive({ maxBytes: MAX_HELLO_BYTES, signal })
  return answer
}
