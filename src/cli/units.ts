const BYTE_UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB']

/** `512 MiB`, `3.6 KiB`: three digits at most, for people. */
export function formatBytes(bytes: number): string {
  let value = bytes
  let unit = 0
  while (value >= 1000 && unit < BYTE_UNITS.length - 1) {
    value /= 1024
    unit++
  }
  return `${threeDigits(value)} ${BYTE_UNITS[unit]}`
}

/** `6.2 ms`, `4.1 s`, `3 min 20 s`. */
export function formatMs(ms: number): string {
  if (ms < 1000) return `${threeDigits(ms)} ms`
  if (ms < 120_000) return `${threeDigits(ms / 1000)} s`
  const seconds = Math.round(ms / 1000)
  return `${Math.floor(seconds / 60)} min ${seconds % 60} s`
}

/** Local time to the second. */
export function formatTime(atMs: number): string {
  const at = new Date(atMs - new Date(atMs).getTimezoneOffset() * 60_000)
  return at.toISOString().slice(0, 19).replace('T', ' ')
}

export function formatCount(count: number): string {
  return count.toLocaleString('en-US')
}

/** Ids are long: enough of one to be typed back. */
export function shortId(id: string): string {
  return id.length <= 20 ? id : `${id.slice(0, 19)}…`
}

function threeDigits(value: number): string {
  return Number(value.toPrecision(value < 100 ? 2 : 3)).toString()
}
