const SIZE_UNITS: Readonly<Record<string, number>> = {
  '': 1,
  K: 1024,
  M: 1024 ** 2,
  G: 1024 ** 3,
  T: 1024 ** 4,
}

/**
 * Bytes of a size as people write it: `512M`, `2GiB`, `1.5G`, `4096`. Binary units.
 *
 * @returns null when it isn't a size, or not a whole number of bytes.
 */
export function parseSizeBytes(text: string): number | null {
  const match = /^(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?$/i.exec(text.trim())
  if (match === null) return null
  const bytes = Number(match[1]) * SIZE_UNITS[match[2]!.toUpperCase()]!
  return Number.isSafeInteger(bytes) ? bytes : null
}

const RATE_UNITS: Readonly<Record<string, number>> = { '': 1, k: 1e3, m: 1e6, g: 1e9 }

/**
 * Bytes per second of a rate: `100Mbit`, `1Gbit/s` (decimal bits) or `12MB/s`, `800kB` (decimal bytes).
 *
 * @returns null when it isn't a rate above zero.
 */
export function parseRateBytesPerSecond(text: string): number | null {
  const match = /^(\d+(?:\.\d+)?)\s*([kmg]?)(bit|b)(?:\/s|ps)?$/i.exec(text.trim())
  if (match === null) return null
  const perUnit = match[3]!.toLowerCase() === 'bit' ? 1 / 8 : 1
  const bytes = Number(match[1]) * RATE_UNITS[match[2]!.toLowerCase()]! * perUnit
  return bytes > 0 ? bytes : null
}

/** Names of VMs, templates and nodes: they become directory names, so nothing else is let in. */
export const NAME_PATTERN = /^[a-z0-9][a-z0-9._-]{0,62}$/i

/** Text from elsewhere without its control characters: it moves no cursor on anybody's terminal. */
export function printable(text: string): string {
  return text.replaceAll(/\p{Cc}+/gu, ' ')
}
