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
  await stored.put(KEY, incarnation)
  return incarnation
}
