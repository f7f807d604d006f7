import { isIP, isIPv6 } from 'node:net'

/** Who uses a VM: where it is best depends on them. */
export interface VmClient {
  /** An IP address without brackets and zone, or a DNS name, in lower case. */
  host: string
  /** A TCP port: whether it answers or refuses is a round trip. */
  port: number
  /** How much it counts beside the others; a whole number, 1 unless said otherwise. */
  weight: number
}

/** Clients of one VM: each is probed by several nodes every few seconds. */
export const MAX_CLIENTS = 16
export const MAX_CLIENT_WEIGHT = 1000
/** RFC 1035, 2.3.4, as text. */
export const MAX_HOST_LENGTH = 253

const DNS_LABEL = /^(?!-)[a-z0-9_-]{1,63}(?<!-)$/

/** Whether it is one of the spellings of a host that VmClient allows. */
export function isClientHost(host: string): boolean {
  if (host.length > MAX_HOST_LENGTH || host !== host.toLowerCase()) return false
  // A zone is the name of an interface of one machine.
  if (isIP(host) !== 0) return !host.includes('%')
  const labels = host.split('.')
  // A name that ends in a number is a misspelt address (WHATWG URL, "ends in a number").
  return labels.every((label) => DNS_LABEL.test(label)) && !/^\d+$/.test(labels.at(-1)!)
}

/**
 * `HOST:PORT[=WEIGHT]`, such as `192.0.2.7:443`, `[2001:db8::7]:443` or `shop.example:443=3`.
 *
 * @returns null when it isn't that
 */
export function parseClient(text: string): VmClient | null {
  const match = /^(?:\[([^\]]+)\]|([^[\]:]+)):(\d{1,5})(?:=(\d{1,4}))?$/.exec(text.trim())
  if (match === null) return null
  const [, bracketed, plain, portText, weightText = '1'] = match
  const host = (bracketed ?? plain!).toLowerCase()
  const [port, weight] = [Number(portText), Number(weightText)]
  const isInRange = port >= 1 && port <= 65_535 && weight >= 1 && weight <= MAX_CLIENT_WEIGHT
  if (!isInRange || !isClientHost(host) || (bracketed !== undefined) !== isIPv6(host)) return null
  return { host, port, weight }
}

/** As `parseClient` reads it. */
export function formatClient({ host, port, weight }: VmClient): string {
  return `${isIPv6(host) ? `[${host}]` : host}:${port}${weight === 1 ? '' : `=${weight}`}`
}
