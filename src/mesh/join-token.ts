import { DroverError } from '../domain/errors.ts'
import { JOIN_TOKEN_VERSION, joinTokenCodec, MAX_HELLO_ADDRESSES } from '../wire/mesh-messages.ts'
import { type DialableAddress, dialableAddress } from './address.ts'
import { MeshError } from './errors.ts'

/** 16 addresses of usual length are 1.5 KB. */
const MAX_TOKEN_CHARACTERS = 8192

export interface JoinToken {
  /** 32 bytes; whoever has them is in. */
  meshKey: Uint8Array
  addresses: DialableAddress[]
}

/** @param addresses - with peer ids, the ones to dial first in front */
export function encodeJoinToken(meshKey: Uint8Array, addresses: readonly string[]): string {
  const bytes = joinTokenCodec.encode({
    version: JOIN_TOKEN_VERSION,
    meshKey,
    addresses: addresses.slice(0, MAX_HELLO_ADDRESSES),
  })
  return Buffer.from(bytes).toString('base64url')
}

/** @throws MeshError TOKEN_MALFORMED; its message never contains the token */
export function decodeJoinToken(text: string): JoinToken {
  const token = text.trim()
  if (token.length > MAX_TOKEN_CHARACTERS || !/^[A-Za-z0-9_-]+$/.test(token)) throw malformed()
  try {
    const { meshKey, addresses } = joinTokenCodec.decode(Buffer.from(token, 'base64url'))
    const dialable = addresses
      .map((address) => dialableAddress(address))
      .filter((address) => address !== null)
    if (dialable.length === 0) throw malformed()
    return { meshKey: Uint8Array.from(meshKey), addresses: dialable }
  } catch (error) {
    throw error instanceof DroverError ? malformed() : error
  }
}

function malformed(): MeshError {
  return new MeshError('TOKEN_MALFORMED', 'not a join token: copy all of what `drover mesh token` prints')
}
