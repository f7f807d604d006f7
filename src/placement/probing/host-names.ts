import { lookup } from 'node:dns/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { canonicalIp } from '../../domain/address.ts'

/** Names that move are found in that time; more often would be a burden on resolvers. */
const FRESH_MS = 60_000
/** So long the last address counts while the resolver fails. */
const STALE_MS = 600_000
/** A resolver that takes longer is waited for by the next round. */
const LOOKUP_TIMEOUT_MS = 2_000
/** 16 clients of 64 VMs, and then some that went. */
const MAX_NAMES = 2048

/** All addresses of a name, as the machine's resolver has them. */
export type Lookup = (name: string) => Promise<readonly string[]>

export interface HostNamesInit {
  lookup?: Lookup
  now?: () => number
}

interface Known {
  /** Null: never found. */
  address: string | null
  foundAtMs: number
  askedAtMs: number
}

/**
 * Addresses of VMs' clients. Names are looked up by the VM's own node, peers
 * get addresses: all of them measure the same host, and none resolves what
 * another one says.
 */
export class HostNames {
  readonly #lookup: Lookup
  readonly #now: () => number
  readonly #known = new Map<string, Known>()
  /** Look-ups under way. */
  readonly #asking = new Map<string, Promise<void>>()

  constructor({ lookup: find = systemLookup, now = () => performance.now() }: HostNamesInit = {}) {
    this.#lookup = find
    this.#now = now
  }

  /**
   * @param host - an IP address or a DNS name
   * @param signal - ends the waiting
   * @returns as `canonicalIp` has it; null: not found. One of several is kept as long as the name has it, or
   *   samples of one client would be of several machines
   */
  async addressOf(host: string, signal: AbortSignal): Promise<string | null> {
    const address = canonicalIp(host)
    if (address !== null) return address
    const known = this.#known.get(host)
    if (known === undefined || known.askedAtMs + FRESH_MS <= this.#now()) await this.#lookUp(host, signal)
    return after(this.#known.get(host), [], this.#now()).address
  }

  /** Waits for LOOKUP_TIMEOUT_MS at most; what is found later is found. */
  async #lookUp(host: string, signal: AbortSignal): Promise<void> {
    const waited = new AbortController()
    const bounded = AbortSignal.any([signal, waited.signal])
    // One at a time for each name: with a resolver that hangs they would pile up.
    const asking = this.#asking.get(host) ?? this.#ask(host)
    this.#asking.set(host, asking)
    const timeOut = sleep(LOOKUP_TIMEOUT_MS, undefined, { signal: bounded }).catch(() => {})
    await Promise.race([asking, timeOut])
    waited.abort()
  }

  async #ask(host: string): Promise<void> {
    // No such name, or no resolver.
    const found = await this.#lookup(host).catch(() => [])
    const nowMs = this.#now()
    const next = { ...after(this.#known.get(host), found, nowMs), askedAtMs: nowMs }
    this.#known.delete(host)
    this.#known.set(host, next)
    const [oldest] = this.#known.keys()
    if (this.#known.size > MAX_NAMES) this.#known.delete(oldest!)
    this.#asking.delete(host)
  }
}

function after(
  known: Known | undefined,
  found: readonly string[],
  nowMs: number,
): Pick<Known, 'address' | 'foundAtMs'> {
  const addresses = found.map(canonicalIp).filter((address) => address !== null)
  const { address = null, foundAtMs = nowMs } = known ?? {}
  if (addresses.length === 0) return { address: foundAtMs + STALE_MS > nowMs ? address : null, foundAtMs }
  return {
    address: address !== null && addresses.includes(address) ? address : addresses[0]!,
    foundAtMs: nowMs,
  }
}

async function systemLookup(name: string): Promise<string[]> {
  const found = await lookup(name, { all: true, order: 'verbatim' })
  return found.map(({ address }) => address)
}
