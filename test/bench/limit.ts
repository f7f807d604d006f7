import { PAGE_BYTES } from '../../src/domain/page.ts'
import { type CloneMemory, eachPrivatePage } from './clone-pages.ts'
import { Squeeze, zstdBytes } from './squeeze.ts'

/** A move must ask, hand the VM over, and hear that it runs: three messages there, three back. */
const ROUND_TRIPS = 3

/** What a move of a clone can't do without, found in its pages just before. */
export interface Unavoidable {
  privatePages: number
  /** Private pages whose content is not the template's. */
  changedPages: number
  /** Those, each as itself or as its difference to the template, whichever zstd level 1 makes smaller. */
  changedZstdBytes: number
  /** All private pages as they are. */
  privateZstdBytes: number
}

/** The same as time on one link. */
export interface Limit {
  bytes: number
  /** Bytes ÷ link rate + round trips; of no use without a limit on the link. */
  ms: number
}

export interface LinkRate {
  /** null: no limit. */
  bitsPerSecond: number | null
  /** Added to what the machine takes itself. */
  roundTripMs: number
}

/** Reads the clone's memory while it runs; it doesn't notice. */
export async function unavoidable(clone: CloneMemory): Promise<Unavoidable> {
  const [all, itself, differences] = [new Squeeze(), new Squeeze(), new Squeeze()]
  const difference = Buffer.alloc(PAGE_BYTES)
  await eachPrivatePage(clone, (_, page, templatePage) => {
    all.add(page)
    if (page.equals(templatePage)) return
    xor(page, templatePage, difference)
    if (zstdBytes(difference) < zstdBytes(page)) differences.add(difference)
    else itself.add(page)
  })
  return {
    privatePages: all.pages,
    changedPages: itself.pages + differences.pages,
    changedZstdBytes: itself.end() + differences.end(),
    privateZstdBytes: all.end(),
  }
}

export function limitOf(bytes: number, { bitsPerSecond, roundTripMs }: LinkRate): Limit {
  const linkMs = bitsPerSecond === null ? 0 : (bytes * 8 * 1000) / bitsPerSecond
  return { bytes, ms: linkMs + ROUND_TRIPS * roundTripMs }
}

function xor(a: Buffer, b: Buffer, into: Buffer): void {
  for (let i = 0; i < PAGE_BYTES; i++) into[i] = a[i]! ^ b[i]!
}
