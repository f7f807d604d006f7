import type { PrivateKey } from '@libp2p/interface'
import { MAX_ANNOUNCEMENT_BYTES } from '../wire/announcement-message.ts'
import {
  type Announcement,
  type AnnouncementContent,
  packAnnouncement,
  unpackAnnouncement,
} from './announcement.ts'
import { type EnvelopeKind, openEnvelope, sealEnvelope } from './signed-envelope.ts'

const ANNOUNCEMENT: EnvelopeKind = {
  name: 'an announcement',
  domain: 'drover-announcement',
  payloadType: Buffer.from('/drover/announcement/1'),
  maxBytes: MAX_ANNOUNCEMENT_BYTES,
}

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

/** @returns at most MAX_ANNOUNCEMENT_BYTES */
export function sealAnnouncement(content: AnnouncementContent, privateKey: PrivateKey): Promise<Uint8Array> {
  return sealEnvelope(ANNOUNCEMENT, packAnnouncement(content), privateKey)
}

/**
 * Reads an envelope; its signature is not checked yet.
 *
 * @throws WireError MESSAGE_TOO_LARGE, MESSAGE_MALFORMED
 */
export function parseEnvelope(data: Uint8Array): ParsedEnvelope {
  const { author, payload, bytes, verify } = openEnvelope(ANNOUNCEMENT, data)
  return { author, announcement: unpackAnnouncement(payload), bytes, verify }
}
