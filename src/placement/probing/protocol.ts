/** One node asks another what it has to its VMs' clients: see placement.proto. */
export const PROBE_PROTOCOL = '/drover/probe/1'

/** From the opening of a channel to its request. */
export const REQUEST_TIMEOUT_MS = 5_000
/** What the asking node may take to read an answer. */
export const REPLY_TIMEOUT_MS = 5_000
/** For all of it, seen from who asks: a dial at worst, a probe and round trips between the two. */
export const ASK_TIMEOUT_MS = 4_000

/** Requests of one peer at a time, and a second: it makes one in a round of some seconds. */
export const PROBE_CHANNELS = { maxInboundStreams: 4, rate: { burst: 16, perSecond: 2 } } as const
