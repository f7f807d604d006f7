import { createReadStream } from 'node:fs'
import { text } from 'node:stream/consumers'
import { canonicalIp } from '../../domain/address.ts'

/** proc(5): the sockets of this machine, one a line. */
const TABLES = ['/proc/net/tcp', '/proc/net/tcp6']
/** 50,000 connections; of more, those are enough to know who connects. */
const MAX_TABLE_BYTES = 8 * 1024 * 1024
/** TCP_ESTABLISHED of include/net/tcp_states.h. */
const ESTABLISHED = '01'

/** An established TCP connection of this machine. */
export interface Connection {
  localPort: number
  /** As `canonicalIp` spells it. */
  remoteAddress: string
}

/** Those there are now; a table that can't be read has none. */
export async function readConnections(): Promise<Connection[]> {
  const tables = await Promise.all(
    TABLES.map((path) => text(createReadStream(path, { end: MAX_TABLE_BYTES - 1 })).catch(() => '')),
  )
  return tables.flatMap(parseConnections)
}

/**
 * @param table - as the kernel prints it: `sl local:port remote:port state ...`, an address as 32-bit words in the
 *   machine's order (little-endian: drover's nodes are x86-64), each in hex
 */
export function parseConnections(table: string): Connection[] {
  return table.split('\n').flatMap((line) => {
    const [, port, remote, state] =
      /^\s*\d+: [0-9A-F]+:([0-9A-F]{4}) ([0-9A-F]{8}|[0-9A-F]{32}):[0-9A-F]{4} ([0-9A-F]{2}) /.exec(line) ??
      []
    if (port === undefined || remote === undefined || state !== ESTABLISHED) return []
    const remoteAddress = addressOf(remote)
    return remoteAddress === null ? [] : [{ localPort: Number.parseInt(port, 16), remoteAddress }]
  })
}

function addressOf(hex: string): string | null {
  const bytes = Buffer.from(hex, 'hex').swap32()
  if (bytes.length === 4) return bytes.join('.')
  const groups = Array.from({ length: 8 }, (_, index) => bytes.readUInt16BE(index * 2).toString(16))
  return canonicalIp(groups.join(':'))
}
