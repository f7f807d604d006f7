import { PAGE_BYTES } from '../../domain/page.ts'
import { MigrationError } from '../errors.ts'
import { hashPrefix, lowerBound } from './hashed-pages.ts'

/**
 * Which pages a destination has in other VMs, told before the pages are sent:
 * the first 4 bytes of their hashes, ascending, each as the difference to the
 * one before, as varints (7 bits a byte, the lowest first, the highest bit says
 * that more follow). 12,000 pages take 36 KB, 65,536 at most 199 KB. Of pages
 * that aren't there, one in 65,000 looks as if it were when 65,536 are: its
 * reference leads nowhere, and it is sent a round later.
 */
export const MAX_FILTER_ENTRIES = 65_536
/** Differences add up to less than 2^32: at most 2^11 of them take more than three bytes, at most 2^4 more than four. */
export const MAX_FILTER_BYTES = MAX_FILTER_ENTRIES * 3 + 2 ** 11 + 2 ** 4
const MEAN_ENTRY_BYTES = 3

/** A filter takes no more than this part of what it is to save: most VMs have nothing in common but their template. */
const FILTER_SHARE = 1 / 128
/** A VM of fewer pages travels in less time than it takes to look for them. */
const MIN_PRIVATE_PAGES = 256

/** How many hashes are worth telling to the source of a VM with so many private pages. */
export function filterEntriesFor(privatePages: number): number {
  if (privatePages < MIN_PRIVATE_PAGES) return 0
  const worthBytes = privatePages * PAGE_BYTES * FILTER_SHARE
  return Math.min(MAX_FILTER_ENTRIES, Math.floor(worthBytes / MEAN_ENTRY_BYTES))
}

/** @param prefixes - ascending, each once, at most MAX_FILTER_ENTRIES */
export function encodeFilter(prefixes: Uint32Array): Uint8Array {
  const bytes = new Uint8Array(MAX_FILTER_BYTES)
  let length = 0
  let previous = 0
  for (const prefix of prefixes) {
    let difference = prefix - previous
    previous = prefix
    while (difference >= 0x80) {
      bytes[length++] = (difference % 0x80) | 0x80
      difference = Math.floor(difference / 0x80)
    }
    bytes[length++] = difference
  }
  return bytes.slice(0, length)
}

/** What the source knows of the pages that the destination has. */
export class SiblingFilter {
  readonly #prefixes: Uint32Array

  private constructor(prefixes: Uint32Array) {
    this.#prefixes = prefixes
  }

  /** @throws MigrationError PROTOCOL_VIOLATION for what isn't a filter */
  static decode(bytes: Uint8Array): SiblingFilter {
    if (bytes.length > MAX_FILTER_BYTES) throw malformed(`${bytes.length} bytes`)
    // Each takes a byte at least.
    const prefixes = new Uint32Array(Math.min(bytes.length, MAX_FILTER_ENTRIES))
    let count = 0
    let previous = -1
    for (let at = 0; at < bytes.length; ) {
      let difference = 0
      let unit = 1
      let byte: number
      do {
        if (at === bytes.length || unit > 2 ** 28) throw malformed(`no difference before byte ${at}`)
        byte = bytes[at++]!
        difference += (byte & 0x7f) * unit
        unit *= 0x80
      } while (byte >= 0x80)
      const prefix = Math.max(previous, 0) + difference
      if (prefix <= previous || prefix >= 2 ** 32) throw malformed(`${prefix} after ${previous}`)
      if (count === MAX_FILTER_ENTRIES) throw malformed(`more than ${count} hashes`)
      prefixes[count++] = prefix
      previous = prefix
    }
    return new SiblingFilter(prefixes.slice(0, count))
  }

  /** Nothing is in it: no page needs to be hashed. */
  get isEmpty(): boolean {
    return this.#prefixes.length === 0
  }

  /** Whether the destination seems to have the page with this hash. */
  has(hash: Uint8Array): boolean {
    const prefix = hashPrefix(hash, 0)
    return this.#prefixes[lowerBound(this.#prefixes, prefix)] === prefix
  }
}

function malformed(what: string): MigrationError {
  return new MigrationError('PROTOCOL_VIOLATION', `a filter that is none: ${what}`)
}
