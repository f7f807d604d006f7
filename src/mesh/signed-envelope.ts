import type { PrivateKey, Record } from '@libp2p/interface'
import { peerIdFromPublicKey } from '@libp2p/peer-id'
import { RecordEnvelope } from '@libp2p/peer-record'
import { WireError } from '../wire/errors.ts'

/** One sort of signed statement; what others a key has signed can't be taken for it. */
export interface EnvelopeKind {
  /** Such as `an announcement`, for errors. */
  name: string
  /** What is signed begins with it (libp2p RFC 0002). */
  domain: string
  payloadType: Uint8Array
  /** Of the whole envelope. */
  maxBytes: number
}

/** A statement and who is said to have made it. */
export interface OpenedEnvelope {
  /** Peer id of the key in the envelope: who said it, if the signature is right. */
  author: string
  payload: Uint8Array
  /** As it came; a copy. */
  bytes: Uint8Array
  /** Whether the author signed it: some 100 µs, so it comes last. */
  verify: () => Promise<boolean>
}

class PayloadRecord implements Record {
  readonly domain: string
  readonly codec: Uint8Array
  readonly #payload: Uint8Array

  constructor({ domain, payloadType }: EnvelopeKind, payload: Uint8Array) {
    this.domain = domain
    this.codec = payloadType
    this.#payload = payload
  }

  marshal(): Uint8Array {
    return this.#payload
  }

  equals(other: Record): boolean {
    return Buffer.from(this.#payload).equals(other.marshal())
  }
}

/** Signs a statement; what is signed must fit `maxBytes`. */
export async function sealEnvelope(
  kind: EnvelopeKind,
  payload: Uint8Array,
  privateKey: PrivateKey,
): Promise<Uint8Array> {
  const envelope = await RecordEnvelope.seal(new PayloadRecord(kind, payload), privateKey)
  return envelope.marshal()
}

/**
 * Reads an envelope; its signature is not checked yet.
 *
 * @throws WireError MESSAGE_TOO_LARGE, MESSAGE_MALFORMED
 */
export function openEnvelope(kind: EnvelopeKind, data: Uint8Array): OpenedEnvelope {
  if (data.length > kind.maxBytes) {
    throw new WireError('MESSAGE_TOO_LARGE', `${kind.name} of ${data.length} bytes`)
  }
  // What is kept must not keep the buffer that it came in.
  const bytes = Uint8Array.from(data)
  const envelope = parse(bytes)
  if (envelope.publicKey.type !== 'Ed25519' || !Buffer.from(kind.payloadType).equals(envelope.payloadType)) {
    throw new WireError('MESSAGE_MALFORMED', 'an envelope of something else')
  }
  return {
    author: peerIdFromPublicKey(envelope.publicKey).toString(),
    payload: envelope.payload,
    bytes,
    verify: () => isSigned(envelope, kind.domain),
  }
}

/** A signature of another length than 64 bytes is one that throws. */
async function isSigned(envelope: RecordEnvelope, domain: string): Promise<boolean> {
  try {
    return await envelope.validate(domain)
  } catch {
    return false
  }
}

function parse(bytes: Uint8Array): RecordEnvelope {
  try {
    return RecordEnvelope.createFromProtobuf(bytes)
  } catch (cause) {
    throw new WireError('MESSAGE_MALFORMED', 'not a signed envelope', { cause })
  }
}
