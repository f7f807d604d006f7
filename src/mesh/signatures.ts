import type { PrivateKey } from '@libp2p/interface'
import { peerIdFromString } from '@libp2p/peer-id'

/** What is signed begins with it: no signature of this key made for something else can be taken for one of these. */
const DOMAIN = Buffer.from('drover-handover\0')

/** This node's signature on what it says of hand-overs, and other nodes': peer ids hold their Ed25519 keys. */
export class PeerSignatures {
  readonly #privateKey: PrivateKey

  constructor(privateKey: PrivateKey) {
    this.#privateKey = privateKey
  }

  async sign(statement: Uint8Array): Promise<Uint8Array> {
    return this.#privateKey.sign(Buffer.concat([DOMAIN, statement]))
  }

  /** False too for what is no signature, and for a peer id without a key in it. */
  async isSignedBy(peer: string, statement: Uint8Array, signature: Uint8Array): Promise<boolean> {
    try {
      const { publicKey } = peerIdFromString(peer)
      // A view on a larger buffer isn't taken by every implementation of a key.
      return (
        (await publicKey?.verify(Buffer.concat([DOMAIN, statement]), Uint8Array.from(signature))) ?? false
      )
    } catch {
      return false
    }
  }
}
