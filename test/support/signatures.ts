import { generateKeyPairSync, type KeyObject, sign, verify } from 'node:crypto'
import type { Signatures } from '../../src/migration/index.ts'

/** Real signatures of nodes that are called by simple names, as channels in memory call them. */
export class SignaturesByName {
  readonly #keys = new Map<string, { privateKey: KeyObject; publicKey: KeyObject }>()

  of(name: string): Signatures {
    return {
      sign: async (statement) => sign(null, statement, this.#key(name).privateKey),
      isSignedBy: async (peer, statement, signature) =>
        verify(null, statement, this.#key(peer).publicKey, signature),
    }
  }

  #key(name: string) {
    const key = this.#keys.get(name) ?? generateKeyPairSync('ed25519')
    this.#keys.set(name, key)
    return key
  }
}
