import { BlockList, isIP } from 'node:net'

/** What is on the machine itself. */
const LOOPBACK = blockList([
  ['127.0.0.0', 8],
  ['::1', 128],
])

/**
 * No single host that clients could be at: "this" network, multicast, reserved
 * and broadcast (RFC 6890), and link-local, which is another network on each node.
 */
const NO_HOST = blockList([
  ['0.0.0.0', 8],
  ['169.254.0.0', 16],
  ['224.0.0.0', 4],
  ['240.0.0.0', 4],
  ['::', 128],
  ['fe80::', 10],
  ['ff00::', 8],
])

/** @param address - as `canonicalIp` spells it, like all that follow */
export function isLoopback(address: string): boolean {
  return LOOPBACK.check(address, familyOf(address))
}

/** Whether a node probes it for its own VMs. */
export function isHost(address: string): boolean {
  return !NO_HOST.check(address, familyOf(address))
}

function familyOf(address: string): 'ipv4' | 'ipv6' {
  return isIP(address) === 6 ? 'ipv6' : 'ipv4'
}

function blockList(subnets: readonly (readonly [string, number])[]): BlockList {
  const list = new BlockList()
  for (const [network, prefix] of subnets) list.addSubnet(network, prefix, familyOf(network))
  return list
}
