import type { PrivateKey, Record } from '@libp2p/interface'
import { peerIdFromPublicKey } from '@libp2p/peer-id'
import { RecordEnvelope } from '@libp2p/peer-record'
import { MAX_ANNOUNCEMENT_BYTES } from '../wire/announcement-message.ts'
import { WireError } from '../wire/errors.ts'
import {
  type Announcement,
  type AnnouncementContent,
  packAnnouncement,
  unpackAnnouncement,
} from './announcement.ts'

/** What is signed begins with it (libp2p RFC 0002): no other record of this key can be taken for an announcement. */
const DOMAIN = 'drover-announcement'
const PAYLOAD_TYPE = Buffer.from('/drover/announcement/1')

/** An announcement as its author signed it: it stays true whoever hands it on. */
export interface ParsedEnvelope {
  /** Peer id of the key in the envelope: who said it, if the signature is right. */
  author: string
  announcement: Announcement
  /** As it came; a copy. */
  bytes: Uint8Array
  /** Whether the author signed it: some 100 µs, so it comes last. */
  verify: () => Promise<boolean>
}

class AnnouncementRecord implements Record {
  readonly domain = DOMAIN
  readonly codec = PAYLOAD_TYPE
  readonly #payload: Uint8Array

  constructor(payload: Uint8Array) {
    this.#payload = payload
  }

  marshal(): Uint8Array {
    return this.#payload
  }

  equals(other: Record): boolean {
    return Buffer.from(this.#payload).equals(other.marshal())
  }
}

/** @returns at most MAX_ANNOUNCEMENT_BYTES */
export async function sealAnnouncement(
  content: AnnouncementContent,
  privateKey: PrivateKey,
): Promise<Uint8Array> {
  const envelope = await RecordEnvelope.seal(new AnnouncementRecord(packAnnouncement(content)), privateKey)
  return envelope.marshal()
}

/**
 * Reads an envelope; its signature is not checked yet.
 *
 * @throws WireError MESSAGE_TOO_LARGE, MESSAGE_MALFORMED
 */
export function parseEnvelope(data: Uint8Array): ParsedEnvelope {
  if (data.length > MAX_ANNOUNCEMENT_BYTES) {
    throw new WireError('MESSAGE_TOO_LARGE', `an announcement of ${data.length} bytes`)
  }
  // What is kept must not keep the buffer that it came in.
  const bytes = Uint8Array.from(data)
  const envelope = openEnvelope(bytes)
  if (envelope.publicKey.type !== 'Ed25519' || !PAYLOAD_TYPE.equals(envelope.payloadType)) {
    throw new WireError('MESSAGE_MALFORMED', 'an envelope of something else')
  }
  return {
    author: peerIdFromPublicKey(envelope.publicKey).toString(),
    announcement: unpackAnnouncement(envelope.payload),
    bytes,
    verify: () => envelope.validate(DOMAIN),
  }
}

function openEnvelope(bytes: Uint8Array): RecordEnvelope {
  try {
    return RecordEnvelope.createFromProtobuf(bytes)
  } catch (cause) {
    throw new WireError('MESSAGE_MALFORMED', 'not a signed envelope', { cause })
  }
}
