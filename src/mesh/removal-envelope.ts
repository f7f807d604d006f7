import type { PrivateKey } from '@libp2p/interface'
import { peerIdFromString } from '@libp2p/peer-id'
import { WireError } from '../wire/errors.ts'
import { MAX_REMOVAL_BYTES, REMOVAL_VERSION, removalCodec } from '../wire/mesh-messages.ts'
import { type EnvelopeKind, openEnvelope, sealEnvelope } from './signed-envelope.ts'

const REMOVAL: EnvelopeKind = {
  name: 'a removal',
  domain: 'drover-removal',
  payloadType: Buffer.from('/drover/removal/1'),
  maxBytes: MAX_REMOVAL_BYTES,
}

/** That a node is removed from the mesh. */
export interface Removal {
  peerId: string
  /** Peer id of who signed it. */
  removedBy: string
  /** By the remover's clock, ms since 1970. */
  atMs: number
}

/** A removal as somebody sent it. */
export interface SignedRemoval extends Removal {
  /** The envelope; a copy. */
  bytes: Uint8Array
  /** Whether `removedBy` signed it. */
  verify: () => Promise<boolean>
}

/** @returns at most MAX_REMOVAL_BYTES */
export function sealRemoval(
  { peerId, atMs }: { peerId: string; atMs: number },
  privateKey: PrivateKey,
): Promise<Uint8Array> {
  return sealEnvelope(REMOVAL, removalCodec.encode({ version: REMOVAL_VERSION, peerId, atMs }), privateKey)
}

/**
 * Reads a removal; its signature is not checked yet.
 *
 * @throws WireError MESSAGE_TOO_LARGE, MESSAGE_MALFORMED: also for one that removes who signed it, or no peer id
 */
export function parseRemoval(data: Uint8Array): SignedRemoval {
  const { author, payload, bytes, verify } = openEnvelope(REMOVAL, data)
  const { peerId, atMs } = removalCodec.decode(payload)
  if (!isPeerId(peerId)) throw new WireError('MESSAGE_MALFORMED', 'a removal of what is no node')
  if (peerId === author) throw new WireError('MESSAGE_MALFORMED', `${author} removes itself`)
  return { peerId, removedBy: author, atMs, bytes, verify }
}

/** Whether a text is a peer id in the one form that connections have it in. */
export function isPeerId(text: string): boolean {
  try {
    return peerIdFromString(text).toString() === text
  } catch {
    return false
  }
}
