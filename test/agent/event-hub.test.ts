import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { EventHub } from '../../src/agent/event-hub.ts'

async function take(events: AsyncGenerator<{ seq: number; kind: string }>, count: number): Promise<string[]> {
  const taken: string[] = []
  for (let i = 0; i < count; i++) {
    const { value } = await events.next()
    taken.push(`${value!.seq} ${value!.kind}`)
  }
  return taken
}

test('readers get what happens from now on, or from the past that is kept', async () => {
  const hub = new EventHub()
  const stop = new AbortController()
  hub.publish({ kind: 'before' })
  const all = hub.read({ recent: true, signal: stop.signal })
  const fresh = hub.read({ recent: false, signal: stop.signal })
  const first = take(fresh, 1)
  hub.publish({ kind: 'after' })
  expect(await take(all, 2)).toEqual(['1 before', '2 after'])
  expect(await first).toEqual(['2 after'])
  stop.abort()
  expect(await all.next()).toMatchObject({ done: true })
})

test('a reader that fell behind learns how many events it missed', async () => {
  const hub = new EventHub()
  hub.publish({ kind: 'first' })
  const slow = hub.read({ recent: true, signal: new AbortController().signal })
  expect(await take(slow, 1)).toEqual(['1 first'])
  for (let i = 0; i < 1030; i++) hub.publish({ kind: 'more' })
  expect((await slow.next()).value).toMatchObject({ kind: 'events-missed', count: 6 })
  expect(await take(slow, 1)).toEqual(['8 more'])
})

test('one reader that stops leaves the others asleep until the next event', async () => {
  const hub = new EventHub()
  const [stop, never] = [new AbortController(), new AbortController()]
  const leaving = hub.read({ recent: false, signal: stop.signal }).next()
  const staying = hub.read({ recent: false, signal: never.signal }).next()
  stop.abort()
  expect(await leaving).toMatchObject({ done: true })
  // Would never fire if the other reader spun on a promise that is resolved for good.
  await sleep(1)
  hub.publish({ kind: 'next' })
  expect((await staying).value).toMatchObject({ kind: 'next' })
})
