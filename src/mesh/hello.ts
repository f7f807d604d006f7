import type { Channel } from '../wire/channel.ts'
import { WireError } from '../wire/errors.ts'
import {
  HELLO_VERSION,
  type Hello,
  helloCodec,
  MAX_HELLO_ADDRESSES,
  MAX_HELLO_BYTES,
  MAX_HELLO_MEMBERS,
} from '../wire/mesh-messages.ts'
import type { MemberRecord } from './member-book.ts'

/** Both sides send one hello, read the other's, and close. */
export const HELLO_PROTOCOL = '/drover/hello/1'
export const HELLO_TIMEOUT_MS = 10_000

/** Enough to find somebody by; it tells the rest itself. */
const MAX_MEMBER_ADDRESSES = 4

export interface HelloContent {
  name: string
  addresses: readonly string[]
  /** In order of interest: what doesn't fit is left out from the end. */
  members: readonly MemberRecord[]
  /** Envelopes; at most MAX_REMOVALS, and all of them are told. */
  removals: readonly Uint8Array[]
}

/** @returns at most MAX_HELLO_BYTES */
export function encodeHello({ name, addresses, members, removals }: HelloContent): Uint8Array {
  const hello: Hello = {
    version: HELLO_VERSION,
    name,
    addresses: addresses.slice(0, MAX_HELLO_ADDRESSES),
    members: members
      .slice(0, MAX_HELLO_MEMBERS)
      .map((member) => ({ ...member, addresses: member.addresses.slice(0, MAX_MEMBER_ADDRESSES) })),
    removals: [...removals],
  }
  let bytes = helloCodec.encode(hello)
  while (bytes.length > MAX_HELLO_BYTES) {
    hello.members.length = Math.floor((hello.members.length * 7) / 8)
    bytes = helloCodec.encode(hello)
  }
  return bytes
}

/**
 * Either side of a hello. It fits the window of a fresh stream, so both may send first.
 *
 * @param content.judge - its failure resets the channel, so that the peer knows
 * @param signal - bounds it; the caller's time-out is HELLO_TIMEOUT_MS
 * @throws WireError MESSAGE_MALFORMED, MESSAGE_TOO_LARGE; MeshError CHANNEL_RESET; what `judge` throws
 */
export async function exchangeHellos(
  channel: Channel,
  { own, judge }: { own: Uint8Array; judge: (hello: Hello) => Promise<void> },
  signal: AbortSignal,
): Promise<Hello> {
  try {
    await channel.send(own, { signal })
    const bytes = await channel.receive({ maxBytes: MAX_HELLO_BYTES, signal })
    if (bytes === null) throw new WireError('MESSAGE_MALFORMED', `${channel.peer} said no hello`)
    const hello = helloCodec.decode(bytes)
    await judge(hello)
    await channel.close()
    return hello
  } catch (error) {
    channel.abort(error instanceof Error ? error : new Error(String(error)))
    throw error
  }
}
