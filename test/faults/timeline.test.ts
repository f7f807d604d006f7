import { expect, test } from 'vitest'
import { Timeline } from './timeline.ts'

/** `a1 a2 b3`: beats with the node that said them. */
function heard(beats: string): string[] {
  const timeline = new Timeline()
  for (const beat of beats.split(' ')) timeline.add({ from: beat[0]!, count: Number(beat.slice(1)), atMs: 0 })
  return timeline.anomalies.map(({ kind }) => kind)
}

test.each([
  ['a1 a2 a3', [], 'one guest that stays'],
  ['a1 a2 b3 b4', [], 'one that moves'],
  ['a1 a2 b5 b6', [], 'some of its beats were not heard'],
  ['a1 a2 b3 a4', [], 'it moves to and fro'],
  ['a1 a2 a3 b3', ['double-run'], 'two that remember the same'],
  ['a1 a2 b3 a3 b4 a4', ['double-run'], 'two that run side by side'],
  ['a1 a2 a3 a2', ['went-back'], 'its memory went back where it is'],
  ['a1 a2 a5 b4', ['went-back'], 'it goes on elsewhere from an earlier memory'],
])('%s: %j, %s', (beats, anomalies) => {
  expect(heard(beats)).toEqual(anomalies)
})
