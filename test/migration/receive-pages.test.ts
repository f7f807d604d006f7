import { expect, test } from 'vitest'
import { MAX_BATCH_PAGES, REFERENCE_BYTES } from '../../src/codec/index.ts'
import { RoundGarbage } from '../../src/migration/garbage.ts'
import { MAX_ROUND_REFERENCES } from '../../src/migration/protocol.ts'
import { arrivalSlots, receivePages } from '../../src/migration/receive-pages.ts'
import type { AppliedBatch, ArrivalJob, GroupInSlot } from '../../src/migration/threads/arrival-job.ts'
import type { Job } from '../../src/migration/threads/page-threads.ts'
import type { IncomingStream } from '../../src/qemu/index.ts'
import type { Channel } from '../../src/wire/channel.ts'
import { pagesCodec } from '../../src/wire/migration-messages.ts'
import { writePagesFrame } from '../../src/wire/pages-frame-writer.ts'
import { channelPair } from '../support/channel-pair.ts'

const TEST_TIMEOUT_MS = 60_000

/** Finds no page behind any reference. */
const job = {
  call: async (_: 'apply', [, groups]: [number, readonly GroupInSlot[]]): Promise<AppliedBatch> => ({
    streamBytes: 0,
    lost: groups.flatMap(({ encoding, indices }) =>
      encoding === 'reference' ? indices.map(() => true) : [],
    ),
  }),
} as unknown as Job<ArrivalJob>
const stream = { writeEncoded: async () => {} } as unknown as IncomingStream

function receive(
  pages: Channel,
  {
    onRound = () => {},
    requireRoom = () => {},
  }: { onRound?: (lost: Uint8Array) => void; requireRoom?: () => void },
) {
  return receivePages(
    { pages, job, slots: arrivalSlots(), stream, garbage: new RoundGarbage(), requireRoom },
    async (_, lost) => onRound(lost),
    new AbortController().signal,
  )
}

const indices = Array.from({ length: MAX_BATCH_PAGES }, (_, index) => index)
const data = Buffer.alloc(MAX_BATCH_PAGES * REFERENCE_BYTES)
const references = (round: number) =>
  writePagesFrame(new Uint8Array(2 ** 16), round, [{ encoding: 'reference', indices, data }])

test(
  'a round has no more references than can be answered',
  async () => {
    const [there, pages] = channelPair()
    const lostBytes: number[] = []
    const receiving = receive(pages, { onRound: ({ length }) => void lostBytes.push(length) })
    const refused = expect(receiving).rejects.toMatchObject({ code: 'PROTOCOL_VIOLATION' })
    const most = MAX_ROUND_REFERENCES / MAX_BATCH_PAGES
    for (let frame = 0; frame < most; frame++) await there.send(references(1))
    await there.send(pagesCodec.encode({ kind: 'roundEnd', round: 1, pages: MAX_ROUND_REFERENCES }))
    await expect.poll(() => lostBytes).toEqual([MAX_ROUND_REFERENCES / 8])
    for (let frame = 0; frame <= most; frame++) await there.send(references(2))
    await refused
  },
  TEST_TIMEOUT_MS,
)

test('memory is looked at while a round goes on', async () => {
  const [there, pages] = channelPair()
  const full = new Error('no memory')
  const receiving = receive(pages, {
    requireRoom: () => {
      throw full
    },
  })
  const refused = expect(receiving).rejects.toBe(full)
  const zeros = writePagesFrame(new Uint8Array(2 ** 16), 1, [
    { encoding: 'zero', indices, data: new Uint8Array(0) },
  ])
  for (let mebibytes = 0; mebibytes < 64; mebibytes++) await there.send(zeros)
  await refused
})
