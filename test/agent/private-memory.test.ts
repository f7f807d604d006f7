import { expect, test } from 'vitest'
import { PrivateMemory } from '../../src/agent/relocation/private-memory.ts'

test('VMs are looked at again after ten seconds, and forgotten when nobody asks for them', async () => {
  let nowMs = 0
  const read: string[] = []
  const memory = new PrivateMemory({
    read: async (id) => {
      if (id === 'gone') throw new Error('no such VM')
      read.push(id)
      return 100 + nowMs
    },
    now: () => nowMs,
  })
  expect(memory.bytes('a')).toBeNull()
  await memory.look(['a', 'gone', 'b'])
  expect([memory.bytes('a'), memory.bytes('gone'), memory.bytes('b')]).toEqual([100, null, 100])
  nowMs = 9_000
  await memory.look(['a'])
  expect([memory.bytes('a'), memory.bytes('b')]).toEqual([100, null])
  nowMs = 10_000
  await memory.look(['a', 'b'])
  expect([memory.bytes('a'), memory.bytes('b')]).toEqual([10_100, 10_100])
  nowMs = 10_001
  await memory.look(['a'], { maxAgeMs: 0 })
  expect(memory.bytes('a')).toBe(10_101)
  expect(read).toEqual(['a', 'b', 'a', 'b', 'a'])
})
