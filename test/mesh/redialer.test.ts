import { afterEach, expect, test } from 'vitest'
import { MAX_WARM, Redialer } from '../../src/mesh/redialer.ts'

const connected = new Set<string>()
const dialled: string[] = []
let redialer: Redialer
afterEach(async () => {
  await redialer.stop(new Error('the test ends'))
  connected.clear()
  dialled.length = 0
})

function start(): void {
  redialer = new Redialer({
    connect: async (peerId) => {
      dialled.push(peerId)
      connected.add(peerId)
    },
    isConnected: (peerId) => connected.has(peerId),
    onForget: () => {},
  })
  redialer.start()
}

const named = (count: number, prefix: string) =>
  Array.from({ length: count }, (_, index) => `${prefix}${index}`)

test('nodes that are no members are connected to for as long as they are named, sixteen of them', async () => {
  start()
  redialer.keep('member')
  redialer.keepWarm(['member', ...named(MAX_WARM + 4, 'a')])
  await expect.poll(() => dialled.length).toBe(MAX_WARM + 1)
  expect(dialled.toSorted()).toEqual(['member', ...named(MAX_WARM, 'a')].toSorted())

  // One that is lost is dialled again; one that is not named any more isn't, unless it is a member.
  redialer.keepWarm(['a1'])
  for (const peerId of ['member', 'a0', 'a1']) {
    connected.delete(peerId)
    redialer.lost(peerId)
  }
  await expect
    .poll(() => dialled.slice(MAX_WARM + 1).toSorted(), { timeout: 5_000 })
    .toEqual(['a1', 'member'])
})
