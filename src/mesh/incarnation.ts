import type { Level } from 'level'

const KEY = 'incarnation'

/**
 * A number for this start, above that of every start before: the time in ms,
 * unless the clock went back (edge nodes without a battery start in the past,
 * and what they announce would count as older than what they said before).
 */
export async function nextIncarnation(db: Level<string, unknown>, wallMs: number): Promise<number> {
  const stored = db.sublevel<string, number>('announcer', { valueEncoding: 'json' })
  const last = (await stored.get(KEY)) ?? 0
  const incarnation = Math.max(Math.floor(wallMs), last + 1)
  // Synced, so a full disk has a reserve for it; without that it is for a node whose clock went back alone.
  await db
    .batch([{ type: 'put', sublevel: stored, key: KEY, value: incarnation }], { sync: true })
    .catch(() => {})
  return incarnation
}
