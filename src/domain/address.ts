import { isIP, isIPv6, SocketAddress } from 'node:net'

const MAPPED_PREFIX = '::ffff:'

/**
 * An IP address in the one spelling that drover compares: IPv6 as RFC 5952 has
 * it, IPv4 never as IPv6.
 *
 * @returns null when it is none, or has a zone, which is the name of an interface of one machine
 */
export function canonicalIp(text: string): string | null {
  if (isIP(text) === 0 || text.includes('%')) return null
  if (!isIPv6(text)) return text
  const { address } = new SocketAddress({ address: text, family: 'ipv6' })
  const mapped = address.slice(MAPPED_PREFIX.length)
  return address.startsWith(MAPPED_PREFIX) && isIP(mapped) === 4 ? mapped : address
}
