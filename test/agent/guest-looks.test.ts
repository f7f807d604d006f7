import { expect, test } from 'vitest'
import { GuestLooks } from '../../src/agent/relocation/guest-looks.ts'

test('VMs are looked at again after ten seconds, and forgotten when nobody asks for them', async () => {
  let nowMs = 0
  const read: string[] = []
  const memory = new GuestLooks({
    look: async (id) => {
      if (id === 'gone') throw new Error('no such VM')
      read.push(id)
      return { privateBytes: 100 + nowMs, dirtyBytesPerSecond: 7 }
    },
    now: () => nowMs,
  })
  const bytes = (id: string) => memory.get(id)?.privateBytes ?? null
  expect(bytes('a')).toBeNull()
  await memory.look(['a', 'gone', 'b'])
  expect([bytes('a'), bytes('gone'), bytes('b')]).toEqual([100, null, 100])
  nowMs = 9_000
  await memory.look(['a'])
  expect([bytes('a'), bytes('b')]).toEqual([100, null])
  nowMs = 10_000
  await memory.look(['a', 'b'])
  expect([bytes('a'), bytes('b')]).toEqual([10_100, 10_100])
  nowMs = 10_001
  await memory.look(['a'], { maxAgeMs: 0 })
  expect(bytes('a')).toBe(10_101)
  expect(read).toEqual(['a', 'b', 'a', 'b', 'a'])
})
