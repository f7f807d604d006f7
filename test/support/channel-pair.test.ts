import { expect, test } from 'vitest'
import { channelPair } from './channel-pair.ts'

/** What this pair promises beyond a Channel (test/wire/channel-suite.ts). */
const MAX_BYTES = 1000

const isSettled = async (promise: Promise<unknown>): Promise<boolean> =>
  (await Promise.race([
    promise.then(() => 'settled'),
    new Promise((resolve) => setImmediate(resolve, 'pending')),
  ])) === 'settled'

test('a sender waits for a reader', async () => {
  const [a, b] = channelPair({ maxBufferedBytes: 10 })
  await a.send(new Uint8Array(6))
  const second = a.send(new Uint8Array(6))
  expect(await isSettled(second)).toBe(false)
  await b.receive({ maxBytes: MAX_BYTES })
  await second
})

test('aborting ends both directions at once, and what was under way is lost', async () => {
  const [a, b] = channelPair({ maxBufferedBytes: 0 })
  const sending = a.send(Buffer.from('lost'))
  const receiving = a.receive({ maxBytes: MAX_BYTES })
  b.abort(new Error('enough'))
  await expect(sending).rejects.toMatchObject({ code: 'ERR_CHANNEL_RESET' })
  await expect(receiving).rejects.toMatchObject({ code: 'ERR_CHANNEL_RESET' })
  await expect(b.receive({ maxBytes: MAX_BYTES })).rejects.toThrow('enough')
  await expect(b.send(new Uint8Array())).rejects.toThrow('enough')
  b.abort(new Error('again'))
})

test('a message that is too large is refused and stays', async () => {
  const [a, b] = channelPair()
  await a.send(new Uint8Array(11))
  await expect(b.receive({ maxBytes: 10 })).rejects.toMatchObject({ code: 'MESSAGE_TOO_LARGE' })
  expect(await b.receive({ maxBytes: 11 })).toHaveLength(11)
})

test('a received view is not valid past the next receive, and the sender may reuse its buffer', async () => {
  const [a, b] = channelPair()
  const mine = Buffer.from('first')
  await a.send(mine)
  mine.fill(0)
  await a.send(Buffer.from('second'))
  const first = (await b.receive({ maxBytes: MAX_BYTES }))!
  expect(Buffer.from(first).toString()).toBe('first')
  await b.receive({ maxBytes: MAX_BYTES })
  expect(Buffer.from(first).equals(Buffer.alloc(5, 0xdb))).toBe(true)
})
