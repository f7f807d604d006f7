import { isIPv4 } from 'node:net'
import { type Multiaddr, multiaddr } from '@multiformats/multiaddr'

/** An address that this node may dial: an IP, a TCP port and who should answer there. */
export interface DialableAddress {
  peerId: string
  address: Multiaddr
}

/**
 * What a peer or a token gave as an address, if it is one: `/ip4|ip6/IP/tcp/PORT`,
 * with `/p2p/PEER` or without. No names: nobody else makes this node ask a DNS server.
 *
 * @param peerId - who is meant when the address doesn't say; another one in the address is refused
 * @returns null when it is anything else
 */
export function dialableAddress(text: string, peerId?: string): DialableAddress | null {
  let address: Multiaddr
  try {
    address = multiaddr(text)
  } catch {
    return null
  }
  if (!isDialable(address)) return null
  const p2p = address.getComponents()[2]?.value
  const named = p2p ?? peerId
  if (named === undefined || (peerId !== undefined && named !== peerId)) return null
  return { peerId: named, address: p2p === undefined ? address.encapsulate(`/p2p/${named}`) : address }
}

/** Whether an address has the form of those that this node may dial, with a peer id or without. */
export function isDialable(address: Multiaddr): boolean {
  const [ip, tcp, p2p, ...rest] = address.getComponents()
  if ((ip?.name !== 'ip4' && ip?.name !== 'ip6') || tcp?.name !== 'tcp' || tcp.value === '0') return false
  return rest.length === 0 && (p2p === undefined || p2p.name === 'p2p')
}

/** Of a list from outside, the addresses of one peer that can be dialled. */
export function dialableAddresses(texts: readonly string[], peerId: string): Multiaddr[] {
  return texts
    .map((text) => dialableAddress(text, peerId)?.address)
    .filter((address) => address !== undefined)
}

/** Whether it leads nowhere but to the machine that dials it. */
function isLoopback(address: Multiaddr): boolean {
  const ip = address.getComponents()[0]?.value ?? ''
  return ip === '::1' || (isIPv4(ip) && ip.startsWith('127.'))
}

/** Whether others than this machine's own processes can get there; what is no address is for libp2p to refuse. */
export function isReachable(address: string): boolean {
  try {
    return !isLoopback(multiaddr(address))
  } catch {
    return false
  }
}

/** What others should dial: loopback only where there is nothing else. */
export function advertised(addresses: readonly Multiaddr[]): Multiaddr[] {
  const reachable = addresses.filter((address) => !isLoopback(address))
  return reachable.length > 0 ? reachable : [...addresses]
}
