import { farLink } from './far-link.ts'
import type { LinkRate } from './limit.ts'
import { makeLink } from './network.ts'
import type { Row } from './results.ts'
import type { Setting, SettingInit } from './setting.ts'
import type { MultifdCompression } from './stock.ts'

/** What all cases of one run have in common. */
export interface Bench {
  repeats: number
  multifdCompression: MultifdCompression
  /** Progress, for people. */
  say(text: string): void
}

/** One row of the table; scenarios have one or more. */
export interface Case {
  scenario: number
  title: string
  setting: SettingInit
  bitsPerSecond: LinkRate['bitsPerSecond']
  run(setting: Setting, bench: Bench): Promise<Row>
}

export const MBIT = 1e6
export const GBIT = 1e9

/** 512 MiB, of which the template has some 290 MiB in use. */
export const SMALL: SettingInit = { makeLink, memory: '512M', fillMib: 210 }

/** The same, with what it takes to get from one to the other and back added. */
export const FAR: SettingInit = { ...SMALL, makeLink: farLink(20) }

export function linkName({ bitsPerSecond, roundTripMs }: LinkRate): string {
  const rate =
    bitsPerSecond === null
      ? 'no limit'
      : bitsPerSecond >= GBIT
        ? `${bitsPerSecond / GBIT} Gbit/s`
        : `${bitsPerSecond / MBIT} Mbit/s`
  return roundTripMs === 0 ? rate : `${rate}, ${roundTripMs} ms`
}
