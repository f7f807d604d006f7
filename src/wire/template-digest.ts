import { CID } from 'multiformats/cid'
import * as raw from 'multiformats/codecs/raw'
import * as Digest from 'multiformats/hashes/digest'
import { sha256 } from 'multiformats/hashes/sha2'
import type { TemplateId } from '../domain/template.ts'

/** The 32 bytes that tell one template id from another: what announcements carry in place of 59 characters. */
export function templateDigest(id: TemplateId): Uint8Array {
  return CID.parse(id).multihash.digest
}

/** @param digest - 32 bytes */
export function templateIdOf(digest: Uint8Array): TemplateId {
  return CID.createV1(raw.code, Digest.create(sha256.code, digest)).toString()
}
