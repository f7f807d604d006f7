import { createHash } from 'node:crypto'

/**
 * The service that nodes of one mesh look for in a LAN (mDNS, RFC 6762): other
 * meshes' have other names, and none tells the key.
 *
 * @param meshKey - 32 bytes
 */
export function mdnsTag(meshKey: Uint8Array): string {
  const digest = createHash('sha256').update('/drover/mdns/1\0').update(meshKey).digest('hex')
  return `_drover-${digest.slice(0, 16)}._udp.local`
}
