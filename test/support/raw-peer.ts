import { generateKeyPair } from '@libp2p/crypto/keys'
import type { Libp2p, PrivateKey, Stream } from '@libp2p/interface'
import { multiaddr } from '@multiformats/multiaddr'
import type { Mesh } from '../../src/mesh/index.ts'
import { decodeJoinToken } from '../../src/mesh/join-token.ts'
import { createNode, type MeshNode } from '../../src/mesh/node.ts'

/** Somebody who has the mesh key but none of drover's manners. */
export async function startRawPeer(token: string, privateKey?: PrivateKey): Promise<MeshNode> {
  const { meshKey } = decodeJoinToken(token)
  const node = await createNode(privateKey ?? (await generateKeyPair('Ed25519')), {
    meshKey,
    listen: ['/ip4/127.0.0.1/tcp/0'],
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
