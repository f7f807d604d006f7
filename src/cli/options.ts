import { InvalidArgumentError } from 'commander'
import type { RunVmRequest } from '../agent/api-schema.ts'
import { MAX_CLIENTS, parseClient, type VmClient } from '../domain/client.ts'
import { parseRateBytesPerSecond, parseSizeBytes } from '../domain/text.ts'

/** Values of options, parsed. Each throws commander's InvalidArgumentError: exit code 2. */

export function size(text: string): number {
  return valid(parseSizeBytes(text), 'Give a size such as 512M or 2G.')
}

export function sizeOrNone(text: string): number {
  return text === '0' ? 0 : size(text)
}

export function rate(text: string): number {
  return valid(parseRateBytesPerSecond(text), 'Give a rate such as 100Mbit or 12MB/s.')
}

export function positive(text: string): number {
  return valid(
    Number(text) > 0 && Number.isFinite(Number(text)) ? Number(text) : null,
    'Give a number above zero.',
  )
}

export function count(text: string): number {
  return valid(/^[1-9]\d{0,5}$/.test(text) ? Number(text) : null, 'Give a whole number above zero.')
}

/** A whole number from 1 to `max`. */
export function countTo(max: number): (text: string) => number {
  return (text) => {
    const isCount = /^[1-9]\d{0,5}$/.test(text) && Number(text) <= max
    return valid(isCount ? Number(text) : null, `Give a whole number from 1 to ${max}.`)
  }
}

export function pattern(text: string): string {
  try {
    new RegExp(text, 'm')
    return text
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message)
  }
}

/** Options that may be given several times. */
export function each(text: string, before: string[] | undefined): string[] {
  return [...(before ?? []), text]
}

type Nic = RunVmRequest['nics'][number]

/** `user[,mac=52:54:00:..][,forward=[tcp:|udp:]HOSTPORT:GUESTPORT]...` */
export function nic(text: string, before: Nic[] | undefined): Nic[] {
  const [kind, ...settings] = text.split(',')
  if (kind !== 'user') throw new InvalidArgumentError('The only kind of NIC is "user" (QEMU\'s own NAT).')
  const wanted: Nic = { forwards: [] }
  for (const setting of settings) {
    const [, key, value] = /^(mac|forward)=(.+)$/.exec(setting) ?? []
    if (key === 'mac') wanted.mac = value!.toLowerCase()
    else if (key === 'forward') wanted.forwards.push(forward(value!))
    else throw new InvalidArgumentError(`"${setting}" is neither mac=... nor forward=...`)
  }
  return [...(before ?? []), wanted]
}

/** `HOST:PORT[=WEIGHT]` */
export function client(text: string, before: VmClient[] | undefined): VmClient[] {
  const found = valid(
    parseClient(text),
    'Give HOST:PORT or HOST:PORT=WEIGHT: an IP address (IPv6 in brackets) or a DNS name; a weight from 1 to 1000.',
  )
  const all = [...(before ?? []), found]
  return valid(all.length <= MAX_CLIENTS ? all : null, `Give at most ${MAX_CLIENTS} clients.`)
}

function forward(text: string): Nic['forwards'][number] {
  const match = /^(?:(tcp|udp):)?(\d{1,5}):(\d{1,5})$/.exec(text)
  if (match === null) throw new InvalidArgumentError(`"${text}" is not [tcp:|udp:]HOSTPORT:GUESTPORT.`)
  return {
    protocol: match[1] === 'udp' ? 'udp' : 'tcp',
    hostPort: Number(match[2]),
    guestPort: Number(match[3]),
  }
}

function valid<T>(value: T | null, hint: string): T {
  if (value === null) throw new InvalidArgumentError(hint)
  return value
}
