import { setImmediate as turnOfTheLoop } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { Lanes, MoveLanes } from '../../src/migration/lanes.ts'
import { MAX_ARRIVALS_PER_PEER, MAX_MOVES } from '../../src/migration/protocol.ts'

const never = new AbortController().signal

/** Enters, and says so in `entered`. */
function entering(
  enter: (signal: AbortSignal) => Promise<Disposable>,
  entered: string[],
  name: string,
  signal = never,
): Promise<Disposable | null> {
  return enter(signal).then(
    (lane) => {
      entered.push(name)
      return lane
    },
    () => null,
  )
}

test('so many at a time, and who came first goes first', async () => {
  const lanes = new Lanes(2)
  const entered: string[] = []
  const enter = (signal: AbortSignal) => lanes.enter(signal)
  const moves = ['a', 'b', 'c', 'd'].map((name) => entering(enter, entered, name))
  await turnOfTheLoop()
  expect(entered).toEqual(['a', 'b'])
  const b = (await moves[1])!
  b[Symbol.dispose]()
  // A lane that is left twice is left once.
  b[Symbol.dispose]()
  await turnOfTheLoop()
  expect(entered).toEqual(['a', 'b', 'c'])
})

test('who gives up keeps nobody waiting, and gets no lane later', async () => {
  const lanes = new Lanes(1)
  const entered: string[] = []
  const enter = (signal: AbortSignal) => lanes.enter(signal)
  const a = (await entering(enter, entered, 'a'))!
  const gaveUp = new AbortController()
  const b = entering(enter, entered, 'b', gaveUp.signal)
  const c = entering(enter, entered, 'c')
  gaveUp.abort(new Error('cancelled'))
  expect(await b).toBeNull()
  a[Symbol.dispose]()
  await c
  expect(entered).toEqual(['a', 'c'])
  await expect(lanes.enter(AbortSignal.abort(new Error('cancelled')))).rejects.toThrow('cancelled')
})

test('a lane that is handed over in the moment of an abort is not lost', async () => {
  const lanes = new Lanes(1)
  const a = await lanes.enter(never)
  const gaveUp = new AbortController()
  const b = lanes.enter(gaveUp.signal).catch(() => null)
  gaveUp.abort(new Error('cancelled'))
  a[Symbol.dispose]()
  expect(await b).toBeNull()
  expect(await lanes.enter(never)).toBeDefined()
})

test('no more to one peer than it takes, and no more than the node has under way', async () => {
  const lanes = new MoveLanes()
  const entered: string[] = []
  const to = (peer: string) =>
    Array.from({ length: MAX_MOVES }, () => entering((signal) => lanes.enter(peer, signal), entered, peer))
  const first = to('x')
  await turnOfTheLoop()
  expect(entered).toHaveLength(MAX_ARRIVALS_PER_PEER)
  to('y')
  to('z')
  await turnOfTheLoop()
  expect(entered).toHaveLength(MAX_MOVES)
  expect(entered.filter((peer) => peer === 'z')).toHaveLength(MAX_MOVES - 2 * MAX_ARRIVALS_PER_PEER)
  ;(await first[0])![Symbol.dispose]()
  await turnOfTheLoop()
  // The next one to `x` had its turn at that peer only now: `z` has waited longer for one of the node's.
  expect(entered.at(-1)).toBe('z')
})
