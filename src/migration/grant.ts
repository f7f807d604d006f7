import type { MigrationId, PeerIdText, VmId } from '../domain/vm.ts'
import { type StatementBody, type StatementWord, statementCodec } from '../wire/migration-messages.ts'
import { MigrationError } from './errors.ts'
import type { Signatures } from './ports.ts'

/** A Grant's name: what it is for, in full. Two that differ in one field are two Grants. */
export interface Grant {
  migrationId: MigrationId
  vmId: VmId
  /** The VM's from this hand-over on. */
  epoch: number
  source: PeerIdText
  destination: PeerIdText
  /** Random UUID that the destination made up for this one arrival. */
  place: string
  /** SHA-256 over all pages sent, in hex. */
  digest: string
}

/** A statement about a Grant as it was heard. */
export interface Heard {
  word: StatementWord
  grant: Grant
  /** Who signed it; null when nobody who could have did. */
  signer: PeerIdText | null
}

export function sameGrant(a: Grant, b: Grant): boolean {
  return (Object.keys(a) as (keyof Grant)[]).every((field) => a[field] === b[field])
}

/**
 * A statement about a Grant, signed by this node.
 *
 * @returns a `Signed` of `migration.proto`
 */
export async function sign(
  signatures: Signatures,
  word: StatementWord,
  { digest, ...name }: Grant,
): Promise<StatementBody> {
  const statement = statementCodec.encode({ word, grant: { ...name, digest: Buffer.from(digest, 'hex') } })
  return { statement, signature: await signatures.sign(statement) }
}

/**
 * Reads a statement and finds out whether `peer` signed it.
 *
 * @throws WireError MESSAGE_MALFORMED; MigrationError PROTOCOL_VIOLATION when it says something else than `words`
 */
export async function hear(
  signatures: Signatures,
  { statement, signature }: StatementBody,
  { peer, words }: { peer: PeerIdText; words: readonly StatementWord[] },
): Promise<Heard> {
  const { word, grant } = statementCodec.decode(statement)
  if (!words.includes(word)) {
    throw new MigrationError('PROTOCOL_VIOLATION', `${word} where ${words.join(' or ')} was due`)
  }
  const isSigned = await signatures.isSignedBy(peer, statement, signature)
  const digest = Buffer.from(grant.digest).toString('hex')
  return { word, grant: { ...grant, digest }, signer: isSigned ? peer : null }
}
