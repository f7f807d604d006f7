import { describe, expect, test } from 'vitest'
import type { Channel } from '../../src/wire/channel.ts'

export interface ChannelEnds extends AsyncDisposable {
  left: Channel
  right: Channel
}

export interface ChannelSuiteOptions {
  /** Two ends of a new channel. */
  open: () => Promise<ChannelEnds>
  /** Peer ids of the left and the right node. */
  peers: () => readonly [string, string]
  /** What a sender may get rid of while nobody reads. */
  maxUnreadBytes: number
}

const MIB = 1024 * 1024
const FRAME_HEADER_BYTES = 4

/** What every Channel promises, whatever carries it. */
export function channelSuite(name: string, { open, peers, maxUnreadBytes }: ChannelSuiteOptions): void {
  describe(`${name} is a channel`, () => {
    test('knows who is at the other end', async () => {
      await using ends = await open()
      expect([ends.right.peer, ends.left.peer]).toEqual(peers())
    })

    test.for([0, 1, 4, 65_536, MIB])('a message of %d bytes arrives as it was sent', async (bytes) => {
      await using ends = await open()
      const message = pattern(bytes, 1)
      const [received] = await Promise.all([ends.right.receive({ maxBytes: MIB }), ends.left.send(message)])
      expect(Buffer.compare(received!, message)).toBe(0)
      expect([ends.left.bytesSent, ends.right.bytesReceived]).toEqual([
        bytes + FRAME_HEADER_BYTES,
        bytes + FRAME_HEADER_BYTES,
      ])
    })

    test('messages keep their order and their borders, in both directions at once', async () => {
      await using ends = await open()
      const sizes = [0, 5, 100_000, 1, 0, 300_000, 17]
      const talk = async (channel: Channel, seed: number) => {
        for (const [index, size] of sizes.entries()) await channel.send(pattern(size, seed + index))
        await channel.close()
      }
      const listen = async (channel: Channel, seed: number) => {
        for (const [index, size] of sizes.entries()) {
          const message = await channel.receive({ maxBytes: MIB })
          expect(Buffer.compare(message!, pattern(size, seed + index))).toBe(0)
        }
        expect(await channel.receive({ maxBytes: MIB })).toBeNull()
      }
      const { left, right } = ends
      await Promise.all([talk(left, 1), talk(right, 100), listen(left, 100), listen(right, 1)])
    })

    test('a message over the limit is refused by its length', async () => {
      await using ends = await open()
      await ends.left.send(pattern(1001, 1))
      await expect(ends.right.receive({ maxBytes: 1000 })).rejects.toMatchObject({
        code: 'MESSAGE_TOO_LARGE',
      })
    })

    test('what was sent before the end is read before the end, and the other side can go on', async () => {
      await using ends = await open()
      await ends.left.send(pattern(10, 1))
      await ends.left.send(pattern(20, 2))
      await ends.left.close()
      expect(await ends.right.receive({ maxBytes: 100 })).toHaveLength(10)
      await ends.right.send(pattern(30, 3))
      expect(await ends.right.receive({ maxBytes: 100 })).toHaveLength(20)
      expect(await ends.right.receive({ maxBytes: 100 })).toBeNull()
      expect(await ends.right.receive({ maxBytes: 100 })).toBeNull()
      expect(await ends.left.receive({ maxBytes: 100 })).toHaveLength(30)
    })

    test('nothing can be sent after the end; ending twice is ending once', async () => {
      await using ends = await open()
      await ends.left.close()
      await ends.left.close()
      await expect(ends.left.send(pattern(1, 1))).rejects.toThrow()
    })

    test('an abort ends both sides at once, also those who wait', async () => {
      await using ends = await open()
      const reason = new Error('out of memory')
      const waiting = [
        expect(ends.right.receive({ maxBytes: 100 })).rejects.toThrow(),
        expect(ends.left.receive({ maxBytes: 100 })).rejects.toBe(reason),
        expect(sendUntilItFails(ends.right)).rejects.toThrow(),
      ]
      ends.left.abort(reason)
      await Promise.all(waiting)
      await expect(ends.left.send(pattern(1, 1))).rejects.toThrow()
      await expect(ends.right.receive({ maxBytes: 100 })).rejects.toThrow()
    })

    test('a signal ends a wait and nothing else', async () => {
      await using ends = await open()
      const reason = new Error('no longer wanted')
      const controller = new AbortController()
      const waiting = ends.right.receive({ maxBytes: 100, signal: controller.signal })
      controller.abort(reason)
      await expect(waiting).rejects.toBe(reason)
      await expect(ends.right.receive({ maxBytes: 100, signal: controller.signal })).rejects.toBe(reason)
      await expect(ends.left.send(pattern(1, 1), { signal: controller.signal })).rejects.toBe(reason)
      await ends.left.send(pattern(7, 1))
      expect(await ends.right.receive({ maxBytes: 100 })).toHaveLength(7)
    })

    test('a reader that waits makes the sender wait', async () => {
      await using ends = await open()
      const count = Math.ceil((4 * maxUnreadBytes) / MIB)
      let accepted = 0
      const sending = (async () => {
        for (let index = 0; index < count; index++) {
          await ends.left.send(pattern(MIB, index))
          accepted++
        }
        await ends.left.close()
      })()
      await settled(() => accepted)
      expect(accepted * MIB).toBeLessThanOrEqual(maxUnreadBytes)
      for (let index = 0; index < count; index++) {
        const message = await ends.right.receive({ maxBytes: MIB })
        expect(Buffer.compare(message!, pattern(MIB, index))).toBe(0)
      }
      expect(await ends.right.receive({ maxBytes: MIB })).toBeNull()
      await sending
    })

    test('a sender that waits for a reader can be called off', async () => {
      await using ends = await open()
      const reason = new Error('the move was cancelled')
      const controller = new AbortController()
      const sending = (async () => {
        for (;;) await ends.left.send(pattern(MIB, 1), { signal: controller.signal })
      })()
      await settled(() => ends.left.bytesSent)
      controller.abort(reason)
      await expect(sending).rejects.toBe(reason)
    })

    test('what was sent may be overwritten', async () => {
      await using ends = await open()
      const count = 24
      const message = new Uint8Array(MIB)
      const sending = (async () => {
        for (let index = 0; index < count; index++) {
          await ends.left.send(message.fill(index))
        }
        message.fill(0xff)
      })()
      for (let index = 0; index < count; index++) {
        const received = await ends.right.receive({ maxBytes: MIB })
        expect(received!.every((byte) => byte === index)).toBe(true)
      }
      await sending
    })
  })
}

/** Bytes that tell one message, and one place in it, from another. */
function pattern(bytes: number, seed: number): Uint8Array {
  const message = Buffer.alloc(bytes)
  for (let offset = 0; offset < bytes; offset += 64) message[offset] = (offset >>> 6) + seed * 31
  return message
}

async function sendUntilItFails(channel: Channel): Promise<never> {
  for (;;) await channel.send(pattern(MIB, 1))
}

/** Until a count has stood still for a while. */
async function settled(count: () => number): Promise<void> {
  let seen = -1
  while (seen !== count()) {
    seen = count()
    await new Promise((resolve) => setTimeout(resolve, 300))
  }
}
